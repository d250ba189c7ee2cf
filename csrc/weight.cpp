#include "weight.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "halves.h"
#include "quantize.h"

namespace flover {

namespace {

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

PackedWeight::PackedWeight(Format format, int64_t out, int64_t in, bool gated, int64_t rotation, int64_t segments)
    : format_(format), out_(out), in_(in), gated_(gated), rotation_(rotation), segments_(segments) {
  if (out < 1 || in < 1) throw std::invalid_argument("a weight needs at least one input and one output");
  if (gated && out % 2) throw std::invalid_argument("a gated weight needs an even number of outputs");
  if (is_block(format) && in % block_format(format).inputs)
    throw std::invalid_argument("the inputs of a weight must be whole blocks of its format");
  if (rotation < 1 || rotation > 1 << MOST_ROUNDS || (rotation & (rotation - 1)) || in % rotation)
    throw std::invalid_argument(
        "the inputs of a weight must be whole blocks of its rotation, a power of two up to 128");
  if (rotation > 1 && format != Format::int8 && format != Format::int4)
    throw std::invalid_argument("only weights in int8 and int4 are rotated");
  if (segments < 1 || segments > MOST_SEGMENTS || (segments & (segments - 1)) ||
      (segments > 1 && in % (segments * (format == Format::int8 ? 8 : step_of(format)))))
    throw std::invalid_argument("the segments of a weight must be a power of two, of whole steps of its format");
  const int64_t panels = num_panels(out, gated);
  data_bytes_ = (size_t)(panels * panel_bytes(format, in));
  if (format == Format::int8)
    bytes_ = (size_t)panels * (PANEL * sizeof(float) + SUMS_KINDS * (size_t)segments * sizeof(WeightSums));
  bytes_ += data_bytes_;
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
      .segments = segments_,
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
      for (int64_t k = 0; k < in_; k++) halves(data)[(k / 2 * PANEL + lane) * 2 + k % 2] = bf16_factor(values[k]);
      break;
    case Format::float16:
      for (int64_t k = 0; k < in_; k++) halves(data)[(k / 2 * PANEL + lane) * 2 + k % 2] = narrow_f16(values[k]);
      break;
    case Format::int8: {
      const float scale = int8_scale(whole, width);
      std::vector<int8_t> q((size_t)padded_in(format_, in_));
      const int64_t inputs = in_ / segments_;
      const Weight mine = view();
      for (int64_t s = 0; s < segments_; s++) {
        const Magnitudes found = quantize_int8(values + s * inputs, inputs, scale, q.data() + s * inputs);
        auto* sums = const_cast<WeightSums*>(mine.sums) + panel * SUMS_KINDS * segments_ + s;
        sums[NEGATIVES * segments_].lanes[lane] = found.negative;
        sums[EXCESS * segments_].lanes[lane] = (found.negative - found.positive) * 128;
      }
      for (size_t k = 0; k < q.size(); k += 4) std::memcpy(data + (k * PANEL) + lane * 4, q.data() + k, 4);
      const_cast<float*>(mine.scales)[panel * PANEL + lane] = scale;
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
