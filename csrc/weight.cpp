#include "weight.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "halves.h"

namespace flover {

namespace {

uint16_t narrow_f16(float value) {  // nearest even; too large becomes infinite
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (magnitude < 0x38800000) {  // below the smallest normal: a multiple of 2^-24
    return (uint16_t)(sign | (uint32_t)std::nearbyint(float_of(magnitude) * 16777216.0f));
  }
  return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

struct Affine {
  float scale, offset;
};

// The same arithmetic with wider registers where there are any. (The sanitizers start too late for such functions.)
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define FLOVER_CLONES [[gnu::target_clones("avx2", "default"), gnu::flatten]]
#else
#define FLOVER_CLONES
#endif

// Nobody outside calls what takes these vectors: which registers pass them does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"

// Eight numbers at once, in the widest registers there are: lane by lane, so that the width changes no bit.
using Wide = float __attribute__((vector_size(32)));
constexpr int WIDE = 8;

[[gnu::always_inline]] inline Wide load_wide(const float* p) {
  Wide v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
[[gnu::always_inline]] inline Wide smaller(Wide a, Wide b) { return a < b ? a : b; }
[[gnu::always_inline]] inline Wide larger(Wide a, Wide b) { return a > b ? a : b; }

struct Fit {
  float error = 0, q = 0, qq = 0, w = 0, qw = 0;  // sums over a group
};

// q = round((w - offset) / scale) in 0..15. Adding and taking 2^23 rounds to nearest even.
[[gnu::always_inline]] inline Wide quantize(Wide values, float offset, float inverse) {
  const Wide q = smaller(larger((values - offset) * inverse, Wide{}), Wide{} + 15.0f);
  return (q + 8388608.0f) - 8388608.0f;
}

float inverse_of(Affine a) { return a.scale == 0.0f ? 0.0f : 1.0f / a.scale; }

[[gnu::always_inline]] inline float sum_of(Wide a) {
  return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

// The squared error of a group.
[[gnu::always_inline]] inline float error_of(const float* values, Affine a) {
  Wide error{};
  const float inverse = inverse_of(a);
  for (int i = 0; i < GROUP; i += WIDE) {
    const Wide value = load_wide(values + i);
    const Wide gap = a.scale * quantize(value, a.offset, inverse) + a.offset - value;
    error += gap * gap;
  }
  return sum_of(error);
}

[[gnu::always_inline]] inline Fit fit_of(const float* values, Affine a) {
  Wide error{}, q_sum{}, qq{}, w{}, qw{};
  const float inverse = inverse_of(a);
  for (int i = 0; i < GROUP; i += WIDE) {
    const Wide value = load_wide(values + i), q = quantize(value, a.offset, inverse);
    const Wide gap = a.scale * q + a.offset - value;
    error += gap * gap, q_sum += q, qq += q * q, w += value, qw += q * value;
  }
  return {sum_of(error), sum_of(q_sum), sum_of(qq), sum_of(w), sum_of(qw)};
}

constexpr float CUT_OFF[] = {0.0f, 0.05f, 0.1f};  // shares of the range

Affine in_halves(Affine a) { return {widen_f16(narrow_f16(a.scale)), widen_f16(narrow_f16(a.offset))}; }

// Least squares for scale and offset given how the values are rounded now.
Affine refit(const Fit& f, Affine a) {
  const float spread = GROUP * f.qq - f.q * f.q;
  if (spread <= 0) return a;
  const float scale = (GROUP * f.qw - f.q * f.w) / spread;
  return in_halves({scale, (f.w - scale * f.q) / GROUP});
}

// Scale and offset, both float16, that bring a group of 32 values near: the best of nine ranges, the full one and those
// that cut off a little at either end, and what least squares make of its rounding, twice; the smallest squared error
// wins.
FLOVER_CLONES Affine fit(const float* values) {
  Wide lows = load_wide(values), highs = lows;
  for (int i = WIDE; i < GROUP; i += WIDE)
    lows = smaller(lows, load_wide(values + i)), highs = larger(highs, load_wide(values + i));
  float low = lows[0], high = highs[0];
  for (int j = 1; j < WIDE; j++) low = std::min(low, lows[j]), high = std::max(high, highs[j]);
  Affine best{0.0f, widen_f16(narrow_f16((high + low) / 2))};
  if (high == low) return best;
  Affine a{};
  float least = std::numeric_limits<float>::infinity();
  for (const float below : CUT_OFF)
    for (const float above : CUT_OFF) {
      const Affine range{(high - low) * (1 - below - above) / 15, low + (high - low) * below};
      const float error = error_of(values, range);
      if (error < least) least = error, a = range;
    }
  a = in_halves(a);
  least = std::numeric_limits<float>::infinity();
  for (int turn = 0; turn < 3; turn++) {
    const Fit fit = fit_of(values, a);
    if (fit.error < least) least = fit.error, best = a;
    a = refit(fit, a);
  }
  return best;
}

// The 4-bit numbers of a group, a byte each.
FLOVER_CLONES void quantize_int4(const float* values, Affine a, uint8_t* out) {
  const float inverse = inverse_of(a);
  for (int i = 0; i < GROUP; i += WIDE) {
    const Wide q = quantize(load_wide(values + i), a.offset, inverse);
    for (int j = 0; j < WIDE; j++) out[i + j] = (uint8_t)(int)q[j];
  }
}

// The step of a row: the largest number in 127 steps, inputs 0, 1, 4, 5 and 2, 3, 6, 7 of every eight in 253.9 together
// (rounding all four up still leaves 255 at most).
FLOVER_CLONES float int8_scale(const float* values, int64_t in) {
  float largest[8] = {}, four[2] = {};
  auto take = [&](const float* v) {
    float a[8];
    for (int i = 0; i < 8; i++) a[i] = std::fabs(v[i]);
    for (int i = 0; i < 8; i++) largest[i] = largest[i] > a[i] ? largest[i] : a[i];
    four[0] = std::max(four[0], (a[0] + a[1]) + (a[4] + a[5]));
    four[1] = std::max(four[1], (a[2] + a[3]) + (a[6] + a[7]));
  };
  int64_t k = 0;
  for (; k + 8 <= in; k += 8) take(values + k);
  if (k < in) {
    float rest[8] = {};
    std::copy(values + k, values + in, rest);
    take(rest);
  }
  return std::max(*std::max_element(largest, largest + 8) / 127, std::max(four[0], four[1]) / 253.9f);
}

// values / scale, nearest even; returns the sums.
FLOVER_CLONES WeightSums quantize_int8(const float* values, int64_t in, float scale, int8_t* out) {
  if (!(scale > 0)) return {};
  int32_t sum = 0, magnitudes = 0;
  for (int64_t k = 0; k < in; k++) {
    const float q = (values[k] / scale + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23
    const auto rounded = (int32_t)std::min(std::max(q, -127.0f), 127.0f);
    out[k] = (int8_t)rounded;
    sum += rounded, magnitudes += std::abs(rounded);
  }
  return {(magnitudes + sum) / 2, (magnitudes - sum) / 2};
}

// One round of the rotation within eight numbers (rotate.h): of those whose numbers differ in one bit.
[[gnu::always_inline]] inline void meet(Wide& a, int bit) {
  using Lanes = int32_t __attribute__((vector_size(32)));
  Lanes other{};
  Wide sign{};
  for (int i = 0; i < WIDE; i++) other[i] = i ^ bit, sign[i] = i & bit ? -1.0f : 1.0f;
  a = a * sign + __builtin_shuffle(a, other);
}

// Every block of so many numbers times the Hadamard matrix and `factor`, in place (weight.h).
FLOVER_CLONES void rotate(float* values, int64_t count, int64_t rotation, float factor) {
  for (int64_t k = 0; k + WIDE <= count && rotation >= WIDE; k += WIDE) {
    Wide rotated = load_wide(values + k) * factor;
    for (const int bit : {1, 2, 4}) meet(rotated, bit);
    std::memcpy(values + k, &rotated, sizeof rotated);
  }
  for (int64_t step = rotation >= WIDE ? WIDE : 1; step < rotation; step *= 2)
    for (int64_t k = 0; k < count; k += 2 * step)
      for (int64_t i = k; i < k + step; i++) {
        const float first = values[i], second = values[i + step];
        values[i] = first + second, values[i + step] = first - second;
      }
  if (rotation > 1 && rotation < WIDE)
    for (int64_t k = 0; k < count; k++) values[k] *= factor;
}

void check_finite(const float* values, int64_t count) {
  for (int64_t k = 0; k < count; k++)
    if (!std::isfinite(values[k]))
      throw std::invalid_argument("weights that are not finite numbers cannot be quantized");
}

int64_t usable_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

uint16_t* halves(uint8_t* p) { return reinterpret_cast<uint16_t*>(p); }
const uint16_t* halves(const uint8_t* p) { return reinterpret_cast<const uint16_t*>(p); }

}  // namespace

PackedWeight::PackedWeight(Format format, int64_t out, int64_t in, bool gated, int64_t rotation)
    : format_(format), out_(out), in_(in), gated_(gated), rotation_(rotation) {
  if (out < 1 || in < 1) throw std::invalid_argument("a weight needs at least one input and one output");
  if (gated && out % 2) throw std::invalid_argument("a gated weight needs an even number of outputs");
  if (is_block(format) && in % block_format(format).inputs)
    throw std::invalid_argument("the inputs of a weight must be whole blocks of its format");
  if (rotation < 1 || rotation > 1 << MOST_ROUNDS || (rotation & (rotation - 1)) || in % rotation)
    throw std::invalid_argument(
        "the inputs of a weight must be whole blocks of its rotation, a power of two up to 128");
  if (rotation > 1 && format != Format::int8 && format != Format::int4)
    throw std::invalid_argument("only weights in int8 and int4 are rotated");
  const int64_t panels = num_panels(out, gated);
  data_bytes_ = (size_t)(panels * panel_bytes(format, in));
  bytes_ = data_bytes_ + (format == Format::int8 ? (size_t)(panels * PANEL) * (sizeof(float) + sizeof(WeightSums)) : 0);
  // Fresh from the system: zeros, aligned, and in large pages where there are any.
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, bytes_, MADV_HUGEPAGE);
#endif
  memory_ = static_cast<uint8_t*>(memory);
}

PackedWeight::~PackedWeight() { munmap(memory_, bytes_); }

Weight PackedWeight::view() const {
  const auto* scales = reinterpret_cast<const float*>(memory_ + data_bytes_);
  const auto* sums = reinterpret_cast<const WeightSums*>(scales + num_panels(out_, gated_) * PANEL);
  return {
      .format = format_,
      .out = out_,
      .in = in_,
      .rotation = rotation_,
      .gated = gated_,
      .data = memory_,
      .scales = scales,
      .sums = sums,
      .order = order_.empty() ? nullptr : order_.data(),
  };
}

void PackedWeight::place(int64_t row, int64_t& panel, int64_t& lane) const {
  const int64_t half = gated_ ? out_ / 2 : out_, within = row % half;
  panel = gated_ ? within / PANEL * 2 + row / half : within / PANEL;
  lane = within % PANEL;
}

// Calls store(row) for so many rows, on all cores. Each thread takes whole panels: rows of one panel share bytes.
template <class Store>
void PackedWeight::each_row(int64_t first, int64_t count, Store&& store) const {
  const bool aligned = !gated_ || out_ / 2 % PANEL == 0;
  const int64_t panels = (first + count - 1) / PANEL - first / PANEL + 1;
  const int64_t threads = aligned ? std::min(panels, usable_cores()) : 1;
  std::vector<std::thread> others;
  auto work = [&](int64_t thread) {
    const int64_t from = (first / PANEL + panels * thread / threads) * PANEL;
    const int64_t to = (first / PANEL + panels * (thread + 1) / threads) * PANEL;
    for (int64_t row = std::max(first, from); row < std::min(first + count, to); row++) store(row);
  };
  for (int64_t thread = 1; thread < threads; thread++) others.emplace_back(work, thread);
  work(0);
  for (auto& other : others) other.join();
}

void PackedWeight::check_rows(int64_t first, int64_t count, int64_t width, int64_t start) const {
  if (first < 0 || count < 0 || first + count > out_) throw std::out_of_range("these rows are not in the weight");
  if (start < 0 || start + in_ > width) throw std::out_of_range("the weight's columns are not in these rows");
}

void PackedWeight::store(int64_t first, int64_t count, const float* values, int64_t width, int64_t start) {
  check_rows(first, count, width, start);
  if (is_block(format_)) throw std::logic_error("numbers are not quantized to blocks");
  if (width % rotation_ || start % rotation_) throw std::out_of_range("the weight's columns are not whole blocks");
  if (format_ == Format::int8 || format_ == Format::int4) check_finite(values, count * width);
  each_row(first, count, [&](int64_t row) { store_row(row, values + (row - first) * width, width, start); });
}

void PackedWeight::store_blocks(int64_t first, int64_t count, const uint8_t* rows, int64_t width, int64_t start) {
  check_rows(first, count, width, start);
  if (!is_block(format_)) throw std::logic_error("the weight is not kept in blocks");
  const BlockFormat& f = block_format(format_);
  if (width % f.inputs || start % f.inputs) throw std::out_of_range("the weight's columns are not whole blocks");
  std::atomic<bool> finite = true;
  each_row(first, count, [&](int64_t row) {
    int64_t panel, lane;
    place(row, panel, lane);
    const uint8_t* blocks = rows + ((row - first) * width + start) / f.inputs * f.file_bytes;
    if (!pack_blocks(format_, blocks, in_, lane, memory_ + panel * panel_bytes(format_, in_))) finite = false;
  });
  if (!finite)
    throw std::invalid_argument(
        "weights that are not finite numbers, or have a scale that is too large, cannot be computed with");
}

void PackedWeight::store_row(int64_t row, const float* whole, int64_t width, int64_t start) {
  std::vector<float> rotated;
  if (rotation_ > 1) {
    rotated.assign(whole, whole + width);
    rotate(rotated.data(), width, rotation_, rotated_weight_scale(rotation_));
    whole = rotated.data();
  }
  const float* values = whole + start;
  int64_t panel, lane;
  place(row, panel, lane);
  uint8_t* data = memory_ + panel * panel_bytes(format_, in_);
  switch (format_) {
    case Format::float32:
      for (int64_t k = 0; k < in_; k++) reinterpret_cast<float*>(data)[k * PANEL + lane] = values[k];
      break;
    case Format::bfloat16:
      for (int64_t k = 0; k < in_; k++) halves(data)[(k / 2 * PANEL + lane) * 2 + k % 2] = narrow_bf16(values[k]);
      break;
    case Format::float16:
      for (int64_t k = 0; k < in_; k++) halves(data)[(k / 2 * PANEL + lane) * 2 + k % 2] = narrow_f16(values[k]);
      break;
    case Format::int8: {
      const float scale = int8_scale(whole, width);
      std::vector<int8_t> q((size_t)padded_in(format_, in_));
      const WeightSums sums = quantize_int8(values, in_, scale, q.data());
      for (size_t k = 0; k < q.size(); k += 4) std::memcpy(data + (k * PANEL) + lane * 4, q.data() + k, 4);
      const Weight mine = view();
      const_cast<float*>(mine.scales)[panel * PANEL + lane] = scale;
      const_cast<WeightSums*>(mine.sums)[panel * PANEL + lane] = sums;
      break;
    }
    case Format::int4:
      for (int64_t start = 0; start < in_; start += GROUP, data += INT4_BLOCK) {
        float group[GROUP] = {};
        std::copy(values + start, values + std::min(start + GROUP, in_), group);
        const Affine a = fit(group);
        halves(data)[lane] = narrow_f16(a.scale);
        halves(data)[PANEL + lane] = narrow_f16(a.offset);
        uint8_t q[GROUP];
        quantize_int4(group, a, q);
        for (int64_t k = 0; k < GROUP; k += 4) {  // four numbers of this output, and of the one it shares bytes with
          uint8_t* bytes = data + 4 * PANEL + (k / 4 * 8 + lane % 8) * 4;
          uint32_t word, mine;
          std::memcpy(&word, bytes, 4);
          std::memcpy(&mine, q + k, 4);
          word = lane < 8 ? (word & 0xf0f0f0f0) | mine : (word & 0x0f0f0f0f) | mine << 4;
          std::memcpy(bytes, &word, 4);
        }
      }
      break;
    default: break;  // blocks are stored as they are
  }
}

void PackedWeight::set_order(const int32_t* order) {
  std::vector<bool> seen((size_t)in_);
  for (int64_t k = 0; k < in_; k++) {
    if (order[k] < 0 || order[k] >= in_ || seen[(size_t)order[k]])
      throw std::out_of_range("an order of inputs has each of them once");
    seen[(size_t)order[k]] = true;
  }
  order_.assign(order, order + in_);
}

void PackedWeight::row(int64_t index, float* values) const {
  if (index < 0 || index >= out_) throw std::out_of_range("this row is not in the weight");
  int64_t panel, lane;
  place(index, panel, lane);
  const uint8_t* data = memory_ + panel * panel_bytes(format_, in_);
  if (is_block(format_)) {
    unpack_blocks(block_format(format_), data, in_, lane, values);
    if (order_.empty()) return;
    const std::vector<float> ordered(values, values + in_);
    for (int64_t k = 0; k < in_; k++) values[order_[(size_t)k]] = ordered[(size_t)k];
    return;
  }
  for (int64_t k = 0; k < in_; k++) {
    switch (format_) {
      case Format::float32: values[k] = reinterpret_cast<const float*>(data)[k * PANEL + lane]; break;
      case Format::bfloat16: values[k] = widen_bf16(halves(data)[(k / 2 * PANEL + lane) * 2 + k % 2]); break;
      case Format::float16: values[k] = widen_f16(halves(data)[(k / 2 * PANEL + lane) * 2 + k % 2]); break;
      case Format::int8:
        values[k] = (float)(int8_t)data[(k / 4 * PANEL + lane) * 4 + k % 4] * view().scales[panel * PANEL + lane];
        break;
      case Format::int4: {
        const uint8_t* block = data + k / GROUP * INT4_BLOCK;
        const uint8_t byte = block[4 * PANEL + (k % GROUP / 4 * 8 + lane % 8) * 4 + k % 4];
        const int q = lane < 8 ? byte & 15 : byte >> 4;
        values[k] = widen_f16(halves(block)[lane]) * (float)q + widen_f16(halves(block)[PANEL + lane]);
        break;
      }
      default: break;
    }
  }
}

}  // namespace flover
