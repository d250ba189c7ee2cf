// Rows of a packed weight, as float32: the embedding table is stored once, also where it is the output projection.
#pragma once

#include "pool.h"
#include "simd.h"
#include "weight.h"

namespace flover::FLOVER_ISA {

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
    if (e.factor != 1.0f)
      for (int64_t k = 0; k < w.in; k++) y[k] *= e.factor;
  }
}

}  // namespace flover::FLOVER_ISA
