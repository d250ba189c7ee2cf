// A program that runs every operation on fixed inputs with each instruction set it was compiled with, and prints a hash
// of each result's bits, CASE HASH: the same lines on every machine. Exit code 1 if the sets differ on this one.
//
// Inputs are made of integers and powers of two, so that no library decides them. What is not a number counts as equal
// whatever its bits: which of them an operation gives is the machine's.
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <typeindex>
#include <vector>

#include "halves.h"
#include "runner.h"
#include "weight.h"

using namespace flover;

namespace {

using Floats = std::vector<float>;

const char* const FORMATS[] = {"float32", "bfloat16", "float16", "int8",    "int4",     "q8_0",    "q4_0",    "q4_1",
                               "q5_0",    "q5_1",     "q2_k",    "q3_k",    "q4_k",     "q5_k",    "q6_k",    "iq4_nl",
                               "iq4_xs",  "mxfp4",    "int4_32", "int4_64", "int4_128", "int8_32", "int8_64", "fp8"};
constexpr int NUM_FORMATS = sizeof FORMATS / sizeof *FORMATS;
static_assert(NUM_FORMATS == (int)Format::fp8_e4m3 + 1);

// Numbers of a seed (G. Marsaglia, Xorshift RNGs, 2003).
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

  uint32_t bits() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return (uint32_t)(state_ >> 32);
  }
  int64_t below(int64_t limit) { return bits() % limit; }
  // In -1..1, one in eight of them larger, by up to 64.
  float number() {
    const float value = (float)((int32_t)bits() >> 8) * 0x1p-23f;
    return below(8) ? value : value * (float)(1 << below(7));
  }
  Floats floats(int64_t count) {
    Floats values((size_t)count);
    for (float& value : values) value = number();
    return values;
  }
  // Any bits: tiny, huge, infinite, not a number.
  Floats any(int64_t count) {
    Floats values((size_t)count);
    for (float& value : values) value = float_of(bits());
    return values;
  }

 private:
  uint64_t state_;
};

// FNV-1a.
class Hash {
 public:
  void add(uint8_t byte) { value_ = (value_ ^ byte) * 0x100000001b3u; }
  void add(float number) { add_bits(number == number ? bits_of(number) : 0x7fc00000u); }
  void add(double number) {
    uint64_t bits;
    memcpy(&bits, &number, 8);
    add_bits(number == number ? bits : 0);
  }
  template <class T>
  void add(T number) {
    add_bits((uint64_t)number);
  }
  template <class T>
  void add(const std::vector<T>& numbers) {
    for (const T number : numbers) add(number);
  }
  uint64_t value() const { return value_; }

 private:
  void add_bits(uint64_t bits) {
    for (int i = 0; i < 64; i += 8) add((uint8_t)(bits >> i));
  }
  uint64_t value_ = 0xcbf29ce484222325u;
};

class Cases {
 public:
  explicit Cases(const std::string& isa) : runner_(isa, 2) {}

  // Runs the operation and keeps the hash of what it wrote.
  template <class Op, class... Results>
  void run(const std::string& name, const Op& op, const Results&... results) {
    runner_.run(op);
    kinds.insert(typeid(Op));
    keep(name, results...);
  }
  template <class... Results>
  void keep(const std::string& name, const Results&... results) {
    Hash hash;
    (hash.add(results), ...);
    hashes[name] = hash.value();
  }

  std::map<std::string, uint64_t> hashes;
  std::set<std::type_index> kinds;  // of operations that were run

 private:
  KernelRunner runner_;
};

// A matrix with random content: quantized as it is stored, or, in a block format, random records with scales of a
// sensible size.
class Matrix {
 public:
  Matrix(Numbers& numbers, Format format, int64_t out, int64_t in, bool gated, int64_t segments = 1)
      : packed_(format, out, in, gated, format == Format::int8 || format == Format::int4 ? 128 : 1, segments) {
    if (is_block(format)) {
      fill(numbers);
    } else {
      const Floats values = numbers.floats(out * in);
      packed_.store(0, out, values.data(), in, 0);
    }
  }

  Weight view() const {
    Weight weight = packed_.view();
    if (!records_.empty()) weight.data = records_.data();
    return weight;
  }
  std::vector<uint8_t> bytes() const {
    const Weight w = packed_.view();
    return {w.data, w.data + num_panels(w.out, w.gated) * panel_bytes(w.format, w.in)};
  }

 private:
  void fill(Numbers& numbers) {
    const Weight w = packed_.view();
    const BlockFormat& f = block_format(w.format);
    const int64_t stride = panel_bytes(w.format, w.in);
    records_.resize((size_t)(num_panels(w.out, w.gated) * stride));
    for (uint8_t& byte : records_) {
      byte = (uint8_t)numbers.bits();
      if (f.values == Values::fp8 && (byte & 0x7f) == 0x7f) byte = 0;  // not a number
    }
    for (int64_t start = 0; start < (int64_t)records_.size(); start += stride)
      for (int64_t b = 0; b < w.in / BLOCK_INPUTS; b += f.inputs / BLOCK_INPUTS)
        fill_head(numbers, f, records_.data() + start + f.record_place(b));
  }

  static void fill_head(Numbers& numbers, const BlockFormat& f, uint8_t* head) {
    for (int64_t lane = 0; lane < PANEL; lane++) {
      const float scale = numbers.number() / 64, offset = numbers.number() / 8;
      const uint16_t half = narrow_f16(scale), shift = narrow_f16(offset);
      const uint32_t word =
          f.scale == Scale::word ? (bits_of(scale) & 0xffffff00u) | (uint32_t)numbers.below(16) : bits_of(scale);
      if (f.scale == Scale::half) memcpy(head + 2 * lane, &half, 2);
      if (f.scale == Scale::exponent) head[lane] = (uint8_t)(118 + numbers.below(8));
      if (f.scale == Scale::single || f.scale == Scale::word) memcpy(head + 4 * lane, &word, 4);
      if (f.stores_offset()) memcpy(head + f.offset_place() + 2 * lane, &shift, 2);
    }
  }

  PackedWeight packed_;
  std::vector<uint8_t> records_;
};

void linears(Cases& cases) {
  constexpr int64_t IN = 512, OUT = 72;
  for (int format = 0; format < NUM_FORMATS; format++)
    for (const int64_t rows : {1, 2, 3, 7, 20}) {
      Numbers numbers((uint64_t)(format * 100 + rows));
      const bool gated = rows % 2 == 0;
      const Matrix matrix(numbers, (Format)format, OUT, IN, gated, gated ? 2 : 1);
      Floats x = numbers.floats(rows * IN), bias = numbers.floats(OUT), y((size_t)(rows * OUT));
      if (rows > 3) {
        for (int64_t k = 0; k < IN / 2; k++) x[(size_t)(2 * IN + k)] = 0.0f;
        x[(size_t)(3 * IN + 5)] = __builtin_inff();
      }
      const std::string name = std::string(FORMATS[format]) + "/" + std::to_string(rows);
      cases.run("linear/" + name,
                Linear{.weight = matrix.view(),
                       .x = x.data(),
                       .rows = {rows},
                       .bias = bias.data(),
                       .activation = gated ? Activation::silu : Activation::none,
                       .y = y.data(),
                       .stride = gated ? OUT / 2 : OUT},
                y);
      std::vector<int64_t> ids{3, OUT - 1, 17};
      Floats looked_up(3 * IN);
      cases.run("embed/" + name, Embed{matrix.view(), ids.data(), {3}, 2.5f, looked_up.data()}, looked_up);
      cases.keep("packed/" + name, matrix.bytes());
    }
}

// Products in bfloat16 of numbers of very different sizes, in more inputs than a tile takes at once.
void pairs(Cases& cases) {
  constexpr int64_t OUT = 72, ROWS = 33;
  for (const int64_t in : {1301, 1664})
    for (const float size : {1.0f, 0x1p-62f}) {
      Numbers numbers((uint64_t)in);
      Floats values = numbers.floats(OUT * in), x = numbers.floats(ROWS * in), y(ROWS * OUT);
      for (auto* all : {&values, &x})
        for (float& number : *all) number *= size * (float)(1 << numbers.below(16));
      PackedWeight weight(Format::bfloat16, OUT, in, false, 1, in % 2 ? 1 : 2);
      weight.store(0, OUT, values.data(), in, 0);
      cases.run("pairs/" + std::to_string(in) + (size < 1 ? "/tiny" : "/usual"),
                Linear{.weight = weight.view(), .x = x.data(), .rows = {ROWS}, .y = y.data(), .stride = OUT}, y);
    }
}

// Every finite number of 16 bits as a weight, which one input of 1 gives back, of bfloat16 but for the smallest.
void halves_of_every_kind(Cases& cases) {
  constexpr int64_t SIZE = 256;
  for (const Format format : {Format::float16, Format::bfloat16}) {
    Floats values(SIZE * SIZE), x(SIZE * SIZE), y(SIZE * SIZE);
    for (size_t i = 0; i < values.size(); i++) {
      const float value = format == Format::float16 ? widen_f16((uint16_t)i) : widen_bf16((uint16_t)i);
      values[i] = value - value == 0.0f ? value : 0.0f;
    }
    for (size_t i = 0; i < SIZE; i++) x[i * SIZE + i] = 1.0f;
    PackedWeight weight(format, SIZE, SIZE, false, 1, 1);
    weight.store(0, SIZE, values.data(), SIZE, 0);
    cases.run(std::string("halves/") + FORMATS[(int)format],
              Linear{.weight = weight.view(), .x = x.data(), .rows = {SIZE}, .y = y.data(), .stride = SIZE}, y);
  }
}

// Activations of numbers of any bits, which a weight of 1 leaves as they are.
void activations(Cases& cases) {
  constexpr int64_t ROWS = 2000;
  const Floats ones(32, 1.0f);
  for (int kind = 0; kind <= (int)Activation::swiglu_oai; kind++)
    for (const bool wide : {false, true}) {
      Numbers numbers((uint64_t)(kind + 50));
      const bool gated = kind == (int)Activation::swiglu_oai;
      PackedWeight weight(Format::float32, 32, 1, gated, 1, 1);
      weight.store(0, 32, ones.data(), 1, 0);
      const Floats x = wide ? numbers.any(ROWS) : numbers.floats(ROWS);
      Floats y(ROWS * 32);
      cases.run("activation/" + std::to_string(kind) + (wide ? "/any" : "/usual"),
                Linear{.weight = weight.view(),
                       .x = x.data(),
                       .rows = {ROWS},
                       .activation = (Activation)kind,
                       .y = y.data(),
                       .stride = gated ? 16 : 32},
                y);
    }
}

void experts(Cases& cases) {
  constexpr int64_t IN = 256, OUT = 48, EXPERTS = 5, ROWS = 11, CHOSEN = 3;
  for (const Format format :
       {Format::float32, Format::bfloat16, Format::int8, Format::int4, Format::q4_k, Format::mxfp4, Format::fp8_e4m3}) {
    Numbers numbers((uint64_t)format + 500);
    std::deque<Matrix> matrices;
    std::vector<Weight> views;
    for (int64_t e = 0; e < EXPERTS; e++) {
      matrices.emplace_back(numbers, format, OUT, IN, true);
      views.push_back(matrices.back().view());
    }
    const Floats scores = numbers.floats(ROWS * EXPERTS), x = numbers.floats(ROWS * IN);
    std::vector<int32_t> ids(ROWS * CHOSEN);
    Floats weights(ROWS * CHOSEN), y(ROWS * CHOSEN * OUT / 2), sums(ROWS * OUT / 2);
    const std::string name = FORMATS[(int)format];
    cases.run("route/" + name,
              Route{scores.data(), {ROWS}, EXPERTS, CHOSEN, format != Format::int8, ids.data(), weights.data()}, ids,
              weights);
    cases.run("experts/" + name,
              ExpertLinear{{views.data(), EXPERTS},
                           x.data(),
                           {ROWS},
                           CHOSEN,
                           false,
                           ids.data(),
                           nullptr,
                           nullptr,
                           Activation::silu,
                           y.data()},
              y);
    cases.run("expert_sum/" + name,
              ExpertSum{y.data(), weights.data(), {ROWS}, CHOSEN, OUT / 2, ids.data(), nullptr, sums.data()}, sums);
  }
}

// Numbers in the type that the file of an adapter has.
std::vector<uint8_t> narrowed(const Floats& values, Format format) {
  std::vector<uint8_t> bytes(values.size() * (format == Format::float32 ? 4 : 2));
  for (size_t i = 0; i < values.size(); i++) {
    const uint16_t half = format == Format::bfloat16 ? narrow_bf16(values[i]) : narrow_f16(values[i]);
    if (format == Format::float32)
      memcpy(&bytes[4 * i], &values[i], 4);
    else
      memcpy(&bytes[2 * i], &half, 2);
  }
  return bytes;
}

// Rows [rank, in] as LoraPart has them: four ranks beside each other.
Floats interleaved(const Floats& down, int64_t rank, int64_t in) {
  Floats laid((size_t)((rank + 3) / 4 * 4 * in));
  for (int64_t i = 0; i < rank; i++)
    for (int64_t k = 0; k < in; k++)
      laid[(size_t)(i / 4 * 4 * in + (k / PANEL * 4 + i % 4) * PANEL + k % PANEL)] = down[(size_t)(i * in + k)];
  return laid;
}

// Rows of two adapters and of none beside each other, and a linear that their outputs are added to.
void adapters(Cases& cases) {
  constexpr int64_t IN = 41, OUT = 40, ROWS = 12, PARTS = 2, PADDED = 48, PANELS = 2;
  Numbers numbers(800);
  const int64_t ranks[] = {5, 16, 1, 3};  // [slot][part]
  std::vector<Floats> downs, ups;
  for (int64_t rank : ranks) {
    Floats down = numbers.floats(rank * PADDED);
    for (int64_t k = 0; k < rank * PADDED; k++)
      if (k % PADDED >= IN) down[(size_t)k] = 0.0f;
    downs.push_back(interleaved(down, rank, PADDED)), ups.push_back(numbers.floats(PANELS * rank * PANEL));
  }
  const std::vector<int32_t> slots{0, 1, -1, 0, 0, 1, -1, 0, 1, 1, 0, -1};
  const Floats x = numbers.floats(ROWS * IN);
  Floats added(ROWS * OUT), y(ROWS * OUT);
  std::vector<int32_t> adds(ROWS);
  for (const Format format : {Format::bfloat16, Format::float16, Format::float32}) {
    const bool whole = format == Format::float32;
    std::deque<std::vector<uint8_t>> kept;
    std::vector<LoraPart> parts;
    for (size_t i = 0; i < 4; i++) {
      const auto& down = kept.emplace_back(narrowed(downs[i], format));
      const auto& up = kept.emplace_back(narrowed(ups[i], format));
      parts.push_back({{down.data(), format}, {up.data(), format}, ranks[i], i % 2 ? 20 : 0, 20, whole ? 1.0f : 0.3f});
    }
    cases.run(whole ? "adapters" : "adapters/" + std::string(FORMATS[(int)format]),
              Lora{parts.data(), 2, PARTS, IN, OUT, slots.data(), x.data(), {ROWS}, added.data(), adds.data()}, added,
              adds);
  }
  const Matrix matrix(numbers, Format::bfloat16, OUT, IN, false);
  cases.run("adapters/linear",
            Linear{.weight = matrix.view(),
                   .x = x.data(),
                   .rows = {ROWS},
                   .added = added.data(),
                   .adds = adds.data(),
                   .added_stride = OUT,
                   .activation = Activation::silu,
                   .y = y.data(),
                   .stride = OUT},
            y);
}

void rows_of_numbers(Cases& cases) {
  constexpr int64_t ROWS = 9, SIZE = 331;
  for (const bool wide : {false, true}) {
    Numbers numbers(900);
    const std::string name = wide ? "/any" : "/usual";
    const Floats x = wide ? numbers.any(ROWS * SIZE) : numbers.floats(ROWS * SIZE), other = numbers.floats(ROWS * SIZE);
    const Floats weight = numbers.floats(SIZE), bias = numbers.floats(SIZE), gate = numbers.floats(ROWS);
    Floats y(ROWS * SIZE), total(ROWS * SIZE), capped = x, logits = x, best(ROWS), reach(ROWS * SIZE);
    std::vector<int64_t> ids(ROWS);
    cases.run("rms_norm" + name,
              Norm{x.data(), other.data(), weight.data(), nullptr, {ROWS}, SIZE, 1e-5f, total.data(), y.data()}, total,
              y);
    cases.run("layer_norm" + name,
              Norm{x.data(), nullptr, weight.data(), bias.data(), {ROWS}, SIZE, 1e-5f, nullptr, y.data()}, y);
    cases.run("add" + name, Add{x.data(), other.data(), {ROWS}, SIZE, SIZE, y.data()}, y);
    cases.run("add_gated" + name, AddGated{x.data(), other.data(), gate.data(), {ROWS}, SIZE, y.data()}, y);
    cases.run("softcap" + name, SoftCap{capped.data(), {ROWS}, SIZE, 3.5f}, capped);
    for (const int64_t rotation : {1, 2, 4, 8, 16, 32, 128}) {
      reach.assign(ROWS, 0.0f);
      cases.run("absmax/" + std::to_string(rotation) + name, AbsMax{x.data(), {ROWS}, 1, 256, rotation, reach.data()},
                reach);
    }
    cases.run("argmax" + name, ArgMax{logits.data(), {ROWS}, SIZE, nullptr, best.data(), ids.data()}, best, ids);
  }
}

void samples(Cases& cases) {
  constexpr int64_t ROWS = 6, SIZE = 1003;
  Numbers numbers(1000);
  Floats logits = numbers.floats(ROWS * SIZE);
  Floats best(ROWS), temperature(ROWS);
  std::vector<double> sums(ROWS), min_p(ROWS), top_p(ROWS), uniform(ROWS);
  std::vector<int64_t> top_k(ROWS), ids(ROWS);
  for (size_t i = 0; i < ROWS; i++) {
    temperature[i] = 0.5f + 0.25f * (float)i, uniform[i] = (double)numbers.bits() * 0x1p-32;
    min_p[i] = i % 2 ? 0.01 : 0.0, top_p[i] = i % 3 ? 0.75 : 1.0, top_k[i] = i % 4 ? 0 : 40;
  }
  cases.run("argmax/logits", ArgMax{logits.data(), {ROWS}, SIZE, nullptr, best.data(), ids.data()}, best, ids);
  cases.run("logsumexp", LogSumExp{logits.data(), {ROWS}, SIZE, sums.data()}, sums);
  cases.run("sample",
            Sample{logits.data(),
                   {ROWS},
                   SIZE,
                   best.data(),
                   temperature.data(),
                   min_p.data(),
                   top_k.data(),
                   top_p.data(),
                   uniform.data(),
                   ids.data()},
            ids);
  std::vector<uint32_t> masks(ROWS * ((SIZE + 31) / 32));
  for (auto& word : masks) word = numbers.bits() | numbers.bits();
  cases.run("argmax/masks", ArgMax{logits.data(), {ROWS}, SIZE, masks.data(), best.data(), ids.data()}, logits, best,
            ids);
}

// Three rows of one layer: CONTEXT tokens each are written to pages, and the last ones of each row look at them.
struct Layer {
  static constexpr int64_t HEADS = 2, QUERY_HEADS = 6, ROWS = 3, CONTEXT = 150;

  Layer(Numbers& numbers, Cache kind, int64_t page_size, int64_t dim)
      : cache(kind), size(page_size), width(dim), stride((QUERY_HEADS + 2 * HEADS) * dim) {
    const int64_t in_row = (CONTEXT + size - 1) / size, tokens = ROWS * in_row * size * HEADS;
    qkv = numbers.floats(ROWS * CONTEXT * stride);
    keys = values = Floats((size_t)(tokens * dim));
    key_scales = value_scales = Floats((size_t)tokens);
    for (int64_t i = 0; i < ROWS * in_row; i++) table.push_back((int32_t)(ROWS * in_row - 1 - i));
    for (int64_t i = 0; i < ROWS * CONTEXT; i++) {
      const int64_t position = i % CONTEXT;
      slots.push_back(table[(size_t)(i / CONTEXT * in_row + position / size)] * size + position % size);
    }
  }

  Pages pages() {
    return {cache, keys.data(), values.data(), key_scales.data(), value_scales.data(), size, HEADS, width};
  }
  int64_t table_stride() const { return (int64_t)table.size() / ROWS; }

  Cache cache;
  int64_t size, width, stride;
  Floats qkv, keys, values, key_scales, value_scales;
  std::vector<int32_t> table;
  std::vector<int64_t> slots;
};

void attention(Cases& cases, Layer& layer, const std::string& name) {
  constexpr int64_t QUERIES[Layer::ROWS] = {1, 20, 3};
  const int32_t starts[] = {0, 1, 21, 24}, contexts[] = {Layer::CONTEXT, Layer::CONTEXT, 70};
  Numbers numbers(1400);
  const Floats queries = numbers.floats(starts[Layer::ROWS] * Layer::QUERY_HEADS * layer.width);
  const Floats slopes = numbers.floats(Layer::QUERY_HEADS), sinks = numbers.floats(Layer::QUERY_HEADS);
  static_assert(QUERIES[0] + QUERIES[1] + QUERIES[2] == 24);
  for (const int64_t window : {0, 37})
    for (const bool plain : {true, false}) {
      Floats y(queries.size());
      cases.run("attention/" + name + "/" + std::to_string(window) + (plain ? "" : "/shaped"),
                Attention{queries.data(),
                          Layer::QUERY_HEADS * layer.width,
                          Layer::QUERY_HEADS,
                          {Layer::ROWS},
                          starts,
                          contexts,
                          layer.table.data(),
                          {layer.table_stride()},
                          0.125f,
                          window,
                          plain ? 0.0f : 5.0f,
                          plain ? nullptr : slopes.data(),
                          plain ? nullptr : sinks.data(),
                          y.data(),
                          layer.pages()},
                y);
    }
}

void layers(Cases& cases) {
  const char* const NAMES[] = {"float32", "bfloat16", "int8"};
  for (const Cache cache : {Cache::float32, Cache::bfloat16, Cache::int8})
    for (const int64_t size : {16, 5}) {
      Numbers numbers((uint64_t)(1200 + size));
      Layer layer(numbers, cache, size, size == 16 ? 64 : 20);
      constexpr int64_t TOKENS = Layer::ROWS * Layer::CONTEXT, TURNS = 8;
      const Floats cos = numbers.floats(TOKENS * TURNS / 2), sin = numbers.floats(TOKENS * TURNS / 2);
      const Floats weight = numbers.floats(layer.width);
      const std::string name = std::string(NAMES[(int)cache]) + "/" + std::to_string(size);
      const float* norm = size == 16 ? nullptr : weight.data();
      cases.run("rotary/" + name,
                Rotary{layer.qkv.data(),
                       {TOKENS},
                       Layer::QUERY_HEADS,
                       cos.data(),
                       sin.data(),
                       TURNS,
                       size == 16,
                       norm,
                       norm,
                       1e-6f,
                       layer.slots.data(),
                       layer.pages()},
                layer.qkv, layer.keys, layer.values, layer.key_scales, layer.value_scales);
      cases.run("head_norm/" + name,
                HeadNorm{layer.qkv.data(),
                         {TOKENS},
                         layer.stride,
                         Layer::QUERY_HEADS,
                         layer.width,
                         Layer::HEADS,
                         layer.width,
                         weight.data(),
                         weight.data(),
                         1e-6f},
                layer.qkv);
      attention(cases, layer, name);
    }
}

void angles(Cases& cases) {
  std::vector<int64_t> positions{0, 1, 7, 100, 4095, 131071};
  const Floats frequencies{1.0f, 0.3f, 0.01f, 0.000015f};
  Floats cos(24), sin(24);
  cases.run("angles", Angles{positions.data(), {6}, frequencies.data(), 4, 1.25f, cos.data(), sin.data()}, cos, sin);
}

std::map<std::string, uint64_t> hashes_of(const std::string& isa) {
  Cases cases(isa);
  for (auto* run :
       {linears, pairs, halves_of_every_kind, activations, experts, adapters, rows_of_numbers, samples, layers, angles})
    run(cases);
  if (cases.kinds.size() != std::tuple_size_v<ForAllOps<std::tuple>>)
    throw std::logic_error("an operation has no case");
  return cases.hashes;
}

}  // namespace

int main() {
  const auto sets = instruction_sets();
  if (sets.empty()) return std::fputs("this machine runs none of the instruction sets that were compiled\n", stderr), 2;
  const auto hashes = hashes_of(sets.front());
  size_t differences = 0;
  for (const std::string& isa : sets) {
    size_t different = 0;
    for (const auto& [name, hash] : hashes_of(isa))
      if (hash != hashes.at(name)) different++, std::fprintf(stderr, "%s differs: %s\n", isa.c_str(), name.c_str());
    std::fprintf(stderr, "%s: %zu of %zu results differ from %s\n", isa.c_str(), different, hashes.size(),
                 sets[0].c_str());
    differences += different;
  }
  for (const auto& [name, hash] : hashes) std::printf("%s %016" PRIx64 "\n", name.c_str(), hash);
  return differences ? 1 : 0;
}
