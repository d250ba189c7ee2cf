#include "choose.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace flover {

namespace {

constexpr int64_t SHORT_LIST = 256;
constexpr int64_t SUM_BLOCK = 256;

struct Token {
  float logit;
  int64_t id;
};

bool before(const Token& a, const Token& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

// The first `count` tokens, in order.
std::vector<Token> first_tokens(const Choice& c, int64_t count) {
  std::vector<Token> list;
  if (count > SHORT_LIST) {
    list.resize((size_t)c.size);
    for (int64_t i = 0; i < c.size; i++) list[(size_t)i] = {c.logits[i], i};
    if (count < c.size) std::nth_element(list.begin(), list.begin() + count, list.end(), before);
    list.resize((size_t)std::min(count, c.size));
    std::sort(list.begin(), list.end(), before);
    return list;
  }
  list.reserve((size_t)count);
  for (int64_t i = 0; i < c.size; i++) {  // a heap with the last of the first tokens on top
    if ((int64_t)list.size() < count) {
      list.push_back({c.logits[i], i});
      std::push_heap(list.begin(), list.end(), before);
    } else if (c.logits[i] > list.front().logit) {
      std::pop_heap(list.begin(), list.end(), before);
      list.back() = {c.logits[i], i};
      std::push_heap(list.begin(), list.end(), before);
    }
  }
  std::sort_heap(list.begin(), list.end(), before);
  return list;
}

// Sums of blocks of weights: eight chains each, always in the same order.
std::vector<double> block_sums(const Choice& c) {
  std::vector<double> sums((size_t)((c.size + SUM_BLOCK - 1) / SUM_BLOCK));
  for (size_t block = 0; block < sums.size(); block++) {
    const int64_t start = (int64_t)block * SUM_BLOCK, end = std::min(start + SUM_BLOCK, c.size);
    double chains[8] = {};
    for (int64_t i = start; i < end; i++) chains[i % 8] += (double)c.weights[i];
    sums[block] =
        ((chains[0] + chains[4]) + (chains[2] + chains[6])) + ((chains[1] + chains[5]) + (chains[3] + chains[7]));
  }
  return sums;
}

double sum_of(const std::vector<double>& sums) {
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// How many of the first tokens it takes to reach `goal`; one more than there are if they do not.
int64_t nucleus(const Choice& c, const std::vector<Token>& list, int64_t count, double goal) {
  double mass = 0;
  for (int64_t i = 0; i < count; i++) {
    mass += (double)c.weights[list[(size_t)i].id];
    if (mass >= goal) return i + 1;
  }
  return count + 1;
}

void keep_only(const Choice& c, const std::vector<Token>& list, int64_t count) {
  const Token last = list[(size_t)count - 1];
  for (int64_t i = 0; i < c.size; i++)
    if (before(last, {c.logits[i], i})) c.weights[i] = 0.0f;
}

void truncate(const Choice& c) {
  const int64_t top_k = c.top_k < 1 ? c.size : std::min(c.top_k, c.size);
  if (top_k < c.size) {
    const auto list = first_tokens(c, top_k);
    int64_t kept = top_k;
    if (c.top_p < 1) {
      double mass = 0;
      for (const auto& token : list) mass += (double)c.weights[token.id];
      kept = std::min(kept, nucleus(c, list, top_k, mass * c.top_p));
    }
    keep_only(c, list, kept);
  } else if (c.top_p < 1) {
    const double goal = sum_of(block_sums(c)) * c.top_p;
    auto list = first_tokens(c, std::min(SHORT_LIST, c.size));
    auto kept = nucleus(c, list, (int64_t)list.size(), goal);
    if (kept > (int64_t)list.size() && (int64_t)list.size() < c.size) {
      list = first_tokens(c, c.size);
      kept = nucleus(c, list, c.size, goal);
    }
    if (kept < c.size) keep_only(c, list, kept);
  }
}

}  // namespace

int64_t choose(const Choice& c) {
  truncate(c);
  const auto sums = block_sums(c);
  const double total = sum_of(sums), goal = std::min(c.uniform * total, std::nextafter(total, 0.0));
  double mass = 0;
  for (size_t block = 0; block < sums.size(); block++) {
    if (mass + sums[block] <= goal) {
      mass += sums[block];
      continue;
    }
    // In this block, one weight after another; its last token if rounding leaves the goal just behind it.
    const int64_t start = (int64_t)block * SUM_BLOCK, end = std::min(start + SUM_BLOCK, c.size);
    int64_t drawn = -1;
    for (int64_t i = start; i < end; i++) {
      if (c.weights[i] == 0.0f) continue;
      drawn = i;
      mass += (double)c.weights[i];
      if (mass > goal) break;
    }
    return drawn;
  }
  for (int64_t i = c.size - 1; i >= 0; i--)
    if (c.weights[i] != 0.0f) return i;
  return -1;
}

}  // namespace flover
