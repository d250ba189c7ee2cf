// Rows of a packed weight, as float32: the embedding table is stored once, also where it is the output projection.
#pragma once

#include "pool.h"
#include "rotate.h"

namespace flover::FLOVER_ISA {

// The row as it was before it was rotated: the matrix is its own inverse but for a factor.
template <int SIZE>
[[gnu::noinline]] static void rotate_back(float* y, int64_t in) {
  constexpr int COUNT = SIZE > LANES ? SIZE / LANES : 1;
  for (int64_t k = 0; k < in; k += COUNT * LANES) {
    F16 v[COUNT];
    for (int i = 0; i < COUNT; i++) v[i] = load_first(y + k + i * LANES, (int)least(LANES, in - k));
    rotate_registers<SIZE>(v);
    for (int i = 0; i < COUNT; i++)
      store_first(y + k + i * LANES, mul(v[i], all(rotation_scale(SIZE))), (int)least(LANES, in - k));
  }
}

static void run(Pool&, const Embed& e) {
  const Weight& w = e.weight;
  const int64_t stride = panel_bytes(w.format, w.in);
  for (int64_t i = 0; i < e.rows; i++) {
    const int64_t panel = e.ids[i] / PANEL, lane = e.ids[i] % PANEL;
    const uint8_t* data = w.data + panel * stride;
    const auto* floats = reinterpret_cast<const float*>(data);
    const auto* halves = reinterpret_cast<const uint16_t*>(data);
    float* y = e.y + i * w.in;
    switch (w.format) {
      case Format::float32:
        for (int64_t k = 0; k < w.in; k++) y[k] = floats[k * PANEL + lane];
        break;
      case Format::bfloat16:
        for (int64_t k = 0; k < w.in; k++) y[k] = widen_bf16(halves[(k / 2 * PANEL + lane) * 2 + k % 2]);
        break;
      case Format::float16:
        for (int64_t k = 0; k < w.in; k++) y[k] = widen_f16(halves[(k / 2 * PANEL + lane) * 2 + k % 2]);
        break;
      case Format::int8: {
        const float scale = w.scales[panel * PANEL + lane];
        for (int64_t k = 0; k < w.in; k++) y[k] = (float)(int8_t)data[(k / 4 * PANEL + lane) * 4 + k % 4] * scale;
        break;
      }
      case Format::int4:
        for (int64_t k = 0; k < w.in; k++) {
          const uint8_t* block = data + k / GROUP * INT4_BLOCK;
          const auto* parameters = reinterpret_cast<const uint16_t*>(block);
          const uint8_t byte = block[4 * PANEL + (k % GROUP / 4 * 8 + lane % 8) * 4 + k % 4];
          y[k] = (float)(lane < 8 ? byte & 15 : byte >> 4) * widen_f16(parameters[lane]) +
                 widen_f16(parameters[PANEL + lane]);
        }
        break;
      default: unpack_blocks(block_format(w.format), data, w.in, lane, y);
    }
    dispatch<0, MOST_ROUNDS>(rounds_of(w.rotation), [&](auto rounds) {
      if constexpr (rounds.value > 0) rotate_back<1 << rounds.value>(y, w.in);
    });
    if (e.factor != 1.0f)
      for (int64_t k = 0; k < w.in; k++) y[k] *= e.factor;
  }
}

}  // namespace flover::FLOVER_ISA
