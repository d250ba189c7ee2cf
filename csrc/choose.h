// The part of sampling that is no arithmetic of lanes: which tokens stay, and which of them is drawn.
#pragma once

#include <cstdint>

namespace flover {

struct Choice {
  const float* logits;  // [size]: the order of the tokens, largest first, lowest id first among equals
  float* weights;       // [size]: not normed; 0 for what is out already; changed
  int64_t size;
  int64_t top_k;   // below 1: all
  double top_p;    // 1: all
  double uniform;  // in (0, 1)
};

// The token that inverting the cumulative distribution, in the order of the ids and in double, leads to. A token of
// weight 0 is never drawn. The vocabulary is sorted only if top_p or top_k want more than the first 256 tokens.
int64_t choose(const Choice& choice);

}  // namespace flover
