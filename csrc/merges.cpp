#include "merges.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace flover {
namespace {

using Text = std::u32string_view;
constexpr int32_t none = -1;
constexpr int most_probes = 512;
constexpr uint64_t base = 0x9E3779B97F4A7C15, mix = 0xBF58476D1CE4E5B9;

uint64_t powered(char32_t character) { return (character + 1) * mix; }

// Tokens by text. The hash of a part of a text comes from those of two beginnings of it.
class Table {
 public:
  Table(Text text, std::span<const int64_t> ends) : text_(text), ends_(ends) {
    size_t size = 16;
    while (size < 2 * ends.size()) size *= 2;
    slots_.assign(size, {});
    for (int32_t token = 0; token < count(); token++) {
      uint64_t hash = 0;
      for (char32_t character : of(token)) hash = hash * base + powered(character);
      size_t at = slot(hash);
      for (int probes = 0; slots_[at].token != none; at = (at + 1) % size)
        if (++probes > most_probes) throw std::invalid_argument("too many of its tokens have the same hash");
      slots_[at] = {token, (uint32_t)hash};
    }
  }

  int32_t count() const { return (int32_t)ends_.size(); }

  Text of(int32_t token) const {
    const int64_t start = token ? ends_[token - 1] : 0;
    return text_.substr(start, ends_[token] - start);
  }

  int32_t find(Text wanted, uint64_t hash) const {
    for (size_t at = slot(hash); slots_[at].token != none; at = (at + 1) % slots_.size())
      if (slots_[at].low == (uint32_t)hash && of(slots_[at].token) == wanted) return slots_[at].token;
    return none;
  }

 private:
  struct Slot {
    int32_t token = none;
    uint32_t low = 0;  // of its hash: most parts of a text are no token, and need not be compared
  };

  size_t slot(uint64_t hash) const { return (hash ^ hash >> 29) * mix >> 20 & (slots_.size() - 1); }

  const Text text_;
  const std::span<const int64_t> ends_;
  std::vector<Slot> slots_;
};

// Two tokens that make `token`, with their sizes in characters, at a place in a text: `left` begins there.
struct Pair {
  double rank;
  int32_t left_size, right_size, token, place, left, right;
};

class Maker {
 public:
  Maker(const Vocabulary& tokens, bool longest_first)
      : tokens_(tokens), longest_first_(longest_first), table_(tokens.text, tokens.ends) {}

  std::vector<Pair> pairs() {
    std::vector<Pair> found;
    for (int32_t token = 0; token < table_.count(); token++) {
      begin(table_.of(token));
      tokens_.several[token] ? append_all(token, found) : append_last(token, found);
    }
    std::sort(found.begin(), found.end(), [this](const Pair& a, const Pair& b) { return before(a, b); });
    return found;
  }

 private:
  // The order of merges, which is that in which they are applied too.
  bool before(const Pair& a, const Pair& b) const {
    if (a.rank != b.rank) return a.rank < b.rank;
    if (a.left_size != b.left_size) return (a.left_size < b.left_size) != longest_first_;
    if (a.right_size != b.right_size) return (a.right_size < b.right_size) != longest_first_;
    return std::pair(a.token, a.place) < std::pair(b.token, b.place);
  }

  Pair pair(int32_t token, int32_t left, int32_t right, int64_t first, int64_t cut, int64_t last) const {
    return {tokens_.ranks[token], (int32_t)(cut - first), (int32_t)(last - cut), token, (int32_t)first, left, right};
  }

  void begin(Text text) {
    text_ = text;
    hashes_.assign(1, 0);
    while (powers_.size() <= text.size()) powers_.push_back(powers_.back() * base);
    for (char32_t character : text) hashes_.push_back(hashes_.back() * base + powered(character));
  }

  int32_t token(int64_t first, int64_t last) const {
    return table_.find(text_.substr(first, last - first), hashes_[last] - hashes_[first] * powers_[last - first]);
  }

  void append_all(int32_t whole, std::vector<Pair>& found) const {
    const int64_t size = text_.size();
    for (int64_t cut = 1; cut < size; cut++) {
      const int32_t left = token(0, cut), right = left == none ? none : token(cut, size);
      if (right != none) found.push_back(pair(whole, left, right, 0, cut, size));
    }
  }

  // Encodes the text as any other, but for what is no token: it would never become one. The last merge makes the whole.
  void append_last(int32_t whole, std::vector<Pair>& found) {
    const int64_t size = text_.size();
    if (size < 2) return;
    // Of the part that begins at a place: the token, where it ends, where the part before it begins.
    parts_.resize(size);
    for (int64_t at = 0; at < size; at++) {
      parts_[at] = {token(at, at + 1), at + 1, at - 1};
      if (parts_[at].token == none) return;
    }
    waiting_.clear();
    for (int64_t at = 0; at + 1 < size; at++) consider(at);
    while (!waiting_.empty()) {
      std::pop_heap(waiting_.begin(), waiting_.end(), [this](const Pair& a, const Pair& b) { return before(b, a); });
      const Pair next = waiting_.back();
      waiting_.pop_back();
      Part& left = parts_[next.place];
      if (left.token != next.left || left.end >= size || parts_[left.end].token != next.right) continue;
      if (next.token == whole) {
        found.push_back(next);
        return;
      }
      Part& right = parts_[left.end];
      left = {next.token, right.end, left.before};
      right.token = none;
      if (left.end < size) parts_[left.end].before = next.place;
      if (left.before >= 0) consider(left.before);
      consider(next.place);
    }
  }

  // Whether the part that begins at `place` and the next one make a token.
  void consider(int64_t place) {
    const Part left = parts_[place];
    if (left.end >= (int64_t)text_.size()) return;
    const Part right = parts_[left.end];
    const int32_t made = token(place, right.end);
    if (made == none) return;
    waiting_.push_back(pair(made, left.token, right.token, place, left.end, right.end));
    std::push_heap(waiting_.begin(), waiting_.end(), [this](const Pair& a, const Pair& b) { return before(b, a); });
  }

  struct Part {
    int32_t token;
    int64_t end, before;
  };

  const Vocabulary tokens_;
  const bool longest_first_;
  const Table table_;
  Text text_;
  std::vector<uint64_t> hashes_, powers_{1};
  std::vector<Part> parts_;
  std::vector<Pair> waiting_;
};

}  // namespace

Merges make_merges(const Vocabulary& tokens, bool longest_first) {
  Merges merges;
  for (const Pair& pair : Maker(tokens, longest_first).pairs()) {
    merges.left.push_back(pair.left);
    merges.right.push_back(pair.right);
  }
  return merges;
}

}  // namespace flover
