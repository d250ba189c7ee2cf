// The merges of a byte-pair encoding whose file has only tokens and their ranks, as SentencePiece's do.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace flover {

// `left[i]` and `right[i]` are the tokens of a merge, the first to be made first.
struct Merges {
  std::vector<int32_t> left, right;
};

// Tokens: their texts lie one after the other in `text` and end before `ends`; no two are the same. `ranks` are numbers
// (no NaN); those of `several` may have parts that stand for characters which are no token.
struct Vocabulary {
  std::u32string_view text;
  std::span<const int64_t> ends;
  std::span<const double> ranks;
  std::span<const uint8_t> several;
};

// Any two tokens that make a third can merge, those of the lowest rank first, of equal ranks those with the longer
// (`longest_first`) or shorter parts. Few of these pairs ever do: whatever lies beside a token, it is made of the two
// that its own text leads to, since until then nothing has been joined with a part of it. So there is one merge for
// each token, and every pair for those of `several`. Throws std::invalid_argument for texts made to have the same
// hashes.
Merges make_merges(const Vocabulary& tokens, bool longest_first);

}  // namespace flover
