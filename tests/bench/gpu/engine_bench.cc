// A whole model's decoding at depth on a CUDA device: a Llama of 8 billion random weights, batches whose contexts together fill the card.
//
//   engine_bench [--launched] [--in-order] [CASE ...]
//
// CASE: MODE:BATCHxCONTEXT[@LAYERS], MODE exact T8 T4 T3 T2, T3+T2 (heads in turn) or rdr3.0 (any rate), or `capacity`.
//
// Contexts are not entered one by one, which would take minutes: the first sequence's prompt is (chunks of 512 rows, timed), then sealed,
// and its pages are copied for every other sequence. They lie in random order, or, --in-order, as a new pool lends them: each head's one
// after the other. Steps read as many different bytes from as many lists.
// One line of CSV per case: tokens/s and TFLOP/s of the prompt (products and attention), seconds of sealing, the median of a decoding step
// (wall time, greedy tokens on the host), what the host did of it before it waited, the time that reading weights, keys and values takes at
// 4.28 TB/s, tokens/s, and bytes of pages held.
// Of rdr: measured and sealed by price; in its steps utilities are refreshed, of each sequence in one step of sixteen. A line more says
// what measuring took, what a step takes without refreshing, and what it takes to settle a sequence's heads, which comes once in 32 steps.
// `capacity` only counts: sequences of 32,768 tokens that the engine admits in 100 GB. --launched: kernel by kernel, not as recorded; the
// last step, and settling two sequences, are what a profiler sees that is told to wait:
//   ncu --profile-from-start off --clock-control none --metrics gpu__time_duration.sum engine_bench --launched T4:64x32768@4
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/budget/pricing.h"
#include "engine/budget/reservation_size.h"
#include "engine/kv/head_notes.h"
#include "engine/step/cuda_pass.h"
#include "engine/step/thread_pool.h"
#include "kernels/base/check.h"
#include "kernels/base/float16.h"
#include "kernels/cuda/products.h"
#include "tests/bench/gpu/device_work.h"
#include "tests/bench/gpu/random_model.h"
#include "tests/engine/stepper_runner.h"

namespace spherical::engine {
namespace {

using Clock = std::chrono::steady_clock;
using kernels::Tier;
constexpr double kBytesPerSecond = 4.28e12;
constexpr int32_t kWarmSteps = 5, kSteps = 25, kChunk = 512;
constexpr const char* kUsual[] = {"capacity", "exact:8x32768", "exact:24x32768", "T4:24x32768", "T4:64x32768", "exact:64x32768@12",
                                  "T4:64x32768@12"};

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Case {
  std::string name;
  std::vector<Tier> tiers;  // of heads, in turn; none: exact
  int32_t batch = 0, context = 0, layers = 32;
  double rate = 0;  // of rdr, bits
};

struct How {
  bool recorded = true, in_order = false;
};

Case ParseCase(const char* text) {
  Case parsed{.name = text, .tiers = {}};
  const std::string name = text;
  const std::string mode = name.substr(0, name.find(':'));
  const int read = std::sscanf(text + std::min(name.size(), mode.size() + 1), "%dx%d@%d", &parsed.batch, &parsed.context, &parsed.layers);
  if (mode.starts_with("rdr")) parsed.rate = std::atof(mode.c_str() + 3);
  for (size_t at = 0; mode != "exact" && parsed.rate == 0 && at < mode.size(); at += 3) {
    const int32_t bits = at + 1 < mode.size() ? mode[at + 1] - '0' : 0;
    parsed.tiers.push_back(bits == 8 ? Tier::kT8 : bits == 4 ? Tier::kT4 : bits == 3 ? Tier::kT3 : Tier::kT2);
  }
  if (read < 2 || parsed.batch < 1 || parsed.context < 128) {
    std::printf("%s: expected MODE:BATCHxCONTEXT[@LAYERS]\n", text);
    std::exit(2);
  }
  return parsed;
}

// Pages of one sequence of the case, of the pool.
int64_t PoolPagesOf(const Case& c, const TransformerSpec& spec) {
  if (c.rate > 0) {  // and what the last pages of lists leave empty
    const double bytes = c.rate / 8 * 2 * spec.head_dim * c.context / static_cast<double>(kernels::PageBytes(spec.head_dim));
    return int64_t{spec.layers} * spec.kv_heads * (static_cast<int64_t>(bytes) + kernels::kLadderTiers + 2) * 11 / 10;
  }
  int64_t pages = 0;
  for (int32_t head = 0; head < spec.layers * spec.kv_heads; ++head) {
    if (c.tiers.empty()) {
      pages += CeilDiv(c.context, kernels::kExactTokensPerPage);
    } else {
      const Tier tier = c.tiers[static_cast<size_t>(head) % c.tiers.size()];
      const int64_t whole = tier == Tier::kT8 ? c.context : kSinkTokens + kNewestTokens;
      pages += CeilDiv(whole, kernels::TokensPerPage(Tier::kT8, spec.head_dim));
      if (tier != Tier::kT8) pages += CeilDiv(c.context - whole, kernels::TokensPerPage(tier, spec.head_dim));
    }
  }
  return pages;
}

// The same pages of the pool, so many further on.
StepperRunner::Sequence CopyOf(const StepperRunner::Sequence& from, SequenceId id, PageId further, bool exact) {
  StepperRunner::Sequence copy = from;
  copy.id = id;
  for (int32_t i = 0; i < copy.pages.heads(); ++i) {
    HeadPages& head = copy.pages.head(i);
    for (PageId& page : head.exact) page += exact ? further : 0;
    for (HeadPages::Coded& list : head.tiers) {
      for (PageId& page : list.pages) page += further;
    }
  }
  return copy;
}

double PromptFlops(const TransformerSpec& spec, double tokens) {
  const double width = spec.width, attended = spec.heads * spec.head_dim, kv = spec.kv_heads * spec.head_dim;
  const double of_layer = width * (attended + 2 * kv) + attended * width + 3.0 * width * spec.ffn_width;
  return spec.layers * (2 * of_layer * tokens + 4 * attended * tokens * tokens / 2);
}

void Measure(const Case& c, const TransformerSpec& spec, const CudaWeights& weights, const How& how, kernels::cuda::Stream stream) {
  const int32_t heads = spec.layers * spec.kv_heads;
  const bool priced = c.rate > 0, exact = c.tiers.empty() && !priced;
  const int64_t page_bytes = kernels::PageBytes(spec.head_dim);
  const PageId of_sequence = static_cast<PageId>(PoolPagesOf(c, spec));
  const int64_t notes = priced ? SamplePages(kSampledPositions, spec.heads / spec.kv_heads) + NotePages(c.context, spec.head_dim) : 0;
  const PageId prompt = exact ? 0 : static_cast<PageId>(int64_t{heads} * (CeilDiv(c.context, kernels::kExactTokensPerPage) + notes));
  const std::vector<float> value_weights(priced ? static_cast<size_t>(heads) : 0, 1.0f);
  const PageId fresh = static_cast<PageId>(int64_t{c.batch} * heads * (priced ? 9 : 2));  // for what is decoded, and settled
  const ModelGeometry geometry = ModelGeometry::Plain({spec.layers, spec.kv_heads, spec.head_dim});
  ThreadPool threads(8);
  CudaPass pass(spec, weights, threads, stream);
  const absl::Status created = pass.Create({.pages = int64_t{c.batch} * of_sequence + fresh, .sequences = c.batch,
                                            .context_max = c.context + 2 * (kWarmSteps + kSteps), .geometry = exact ? nullptr : &geometry,
                                            .value_weights = value_weights, .workspace_pages = prompt, .recorded = how.recorded});
  if (!created.ok()) {
    std::printf("%s: %s\n", c.name.c_str(), std::string(created.message()).c_str());
    return;
  }
  PassStepper stepper(pass);
  const PageRange first = {.first = 0, .count = of_sequence, .in_order = how.in_order};
  StepperRunner prompts(spec, stepper, 1, exact ? first : PageRange{.first = 0, .count = prompt}, first);
  std::vector<StepperRunner::Sequence> sequences = {prompts.Start(priced ? QuerySampling::For(c.context) : QuerySampling{})};
  Clock::time_point start = Clock::now();
  for (int32_t at = 0; at < c.context; at += kChunk) {
    if (at == kChunk) start = Clock::now();  // the first chunk warms up
    const std::vector<TokenId> chunk = SomeTokens(std::min(kChunk, c.context - at), spec.vocabulary, static_cast<uint32_t>(at));
    Require(prompts.Step({{&sequences[0], chunk}}).status(), "a chunk of the prompt");
  }
  const double prompt_seconds = SecondsSince(start);
  const double flops = PromptFlops(spec, c.context) - PromptFlops(spec, kChunk);

  start = Clock::now();
  for (size_t t = 0; t < c.tiers.size(); ++t) {
    std::vector<int32_t> of_tier;
    for (int32_t i = static_cast<int32_t>(t); i < heads; i += static_cast<int32_t>(c.tiers.size())) of_tier.push_back(i);
    Require(prompts.Seal(sequences[0], c.tiers[t], of_tier), "sealing");
  }
  std::vector<int32_t> prices;
  double measure_seconds = 0;
  if (priced) {
    const auto measured = prompts.Measure(sequences[0], MeasureItem::Kind::kExact, 1);
    Require(measured.status(), "measuring");
    measure_seconds = SecondsSince(start);
    const int64_t of_head = static_cast<int64_t>(c.rate / 8 * 2 * spec.head_dim * c.context) -
                            (kSinkTokens + kNewestTokens) * kernels::TokenBytes(Tier::kT8, spec.head_dim);
    prices = PricesFor(measured->curves, spec.head_dim, /*keeps_all=*/false, heads * of_head);
    Require(prompts.SealAt(sequences[0], prices, measured->curves), "sealing by price");
  }
  const double seal_seconds = SecondsSince(start);

  uint8_t* const pool = exact ? pass.arenas().exact : pass.arenas().coded;
  for (int32_t s = 1; s < c.batch; ++s) {
    Require(kernels::cuda::CopyOnDevice(stream, pool + s * of_sequence * page_bytes, pool, of_sequence * page_bytes));
    sequences.push_back(CopyOf(sequences[0], s + 1, s * of_sequence, exact));
  }
  const PageRange rest = {.first = c.batch * of_sequence, .count = fresh};
  StepperRunner decoding(spec, stepper, c.batch + 1, exact ? rest : PageRange{}, rest);
  const std::vector<float> refresh(static_cast<size_t>(spec.layers), 1.0f);
  int32_t entered = 0;
  // Medians of steps, in milliseconds; of rdr, those without refreshing come in turn with those with it.
  std::vector<double> steps, without;
  for (int32_t i = 0; i < (priced ? 2 : 1) * (kWarmSteps + kSteps); ++i, ++entered) {
    const bool refreshed = priced && i % 2 == 1;
    std::vector<StepperRunner::Part> parts;
    for (int32_t n = 0; n < c.batch; ++n) {
      parts.push_back({.sequence = &sequences[static_cast<size_t>(n)], .tokens = {static_cast<TokenId>(100 + 31 * entered + n)}});
      if (refreshed && (i / 2 + n) % kRefreshSteps == 0) parts.back().refresh = refresh;
    }
    const bool last = i + 1 == (priced ? 2 : 1) * (kWarmSteps + kSteps);
    if (last) kernels::cuda::BeginProfile();
    start = Clock::now();
    Require(decoding.Step(parts).status(), "a step");
    if (last) kernels::cuda::EndProfile();
    if (i >= kWarmSteps) (priced && !refreshed ? without : steps).push_back(SecondsSince(start));
  }
  std::ranges::sort(steps);
  std::ranges::sort(without);
  const double step = steps[steps.size() / 2];
  int64_t read = CudaWeightBytes(spec);
  for (int32_t head = 0; head < heads; ++head) {
    const int64_t token_bytes = priced ? static_cast<int64_t>(c.rate / 8 * 2 * spec.head_dim)
                                : exact ? kernels::ExactBytesUsed(spec.head_dim) / kernels::kExactTokensPerPage
                                        : kernels::TokenBytes(c.tiers[static_cast<size_t>(head) % c.tiers.size()], spec.head_dim);
    read += int64_t{c.batch} * c.context * token_bytes;
  }
  std::printf("%s,%d,%d,%d,%.0f,%.1f,%.3f,%.3f,%.3f,%.3f,%.3f,%.0f,%.2f\n", c.name.c_str(), c.batch, c.context, c.layers,
              (c.context - kChunk) / prompt_seconds, flops / prompt_seconds * 1e-12, seal_seconds, step * 1e3, steps.front() * 1e3,
              stepper.host_ms,
              static_cast<double>(read) / kBytesPerSecond * 1e3, c.batch / step,
              static_cast<double>(int64_t{c.batch} * of_sequence * page_bytes) * 1e-9);
  if (priced) {
    std::printf("# %s: measuring %.3f s; a step without refreshing %.3f ms, at best %.3f\n", c.name.c_str(), measure_seconds,
                without[without.size() / 2] * 1e3, without.front() * 1e3);
    const auto settle = [&](int32_t begin, int32_t count) {
      std::vector<StepperRunner::Sequence*> some;
      for (int32_t n = begin; n < begin + count; ++n) some.push_back(&sequences[static_cast<size_t>(n)]);
      Require(decoding.Settle(some, prices), "settling");
    };
    settle(0, c.batch);
    std::printf("# %s: settling all sequences for the first time: each %.3f ms of measuring and %.3f of moving\n", c.name.c_str(),
                stepper.measure_ms / c.batch, stepper.retier_ms / c.batch);
    for (const int32_t together : {1, 2, 8}) {
      std::vector<double> measured, moved;
      for (int32_t n = 0; n + together <= c.batch; n += together) {
        const bool last = together == 2 && n + 2 * together > c.batch;
        if (last) kernels::cuda::BeginProfile();
        settle(n, together);
        if (last) kernels::cuda::EndProfile();
        measured.push_back(stepper.measure_ms / together);
        moved.push_back(stepper.retier_ms / together);
      }
      if (measured.empty()) break;
      std::ranges::sort(measured);
      std::ranges::sort(moved);
      std::printf("# %s: settling %d sequences in a call: each %.3f ms of measuring and %.3f of moving, at best %.3f and %.3f\n",
                  c.name.c_str(), together, measured[measured.size() / 2], moved[moved.size() / 2], measured.front(), moved.front());
    }
  }
  std::fflush(stdout);
}

// What the engine's own admission makes of 100 GB.
void Capacity() {
  const TransformerSpec spec = Llama8B(32);
  constexpr int64_t kBytes = 100'000'000'000, kTokens = 32'768;
  int64_t of_exact = 0;
  for (const char* mode : {"exact", "uniform:T4", "uniform:T3", "uniform:T2", "rdr:4.5", "rdr:3.0", "rdr:2.0"}) {
    const KvShape shape = MakeKvShape(spec.layers, spec.kv_heads, spec.head_dim, FindKvMode(mode).value(), spec.heads / spec.kv_heads);
    const int64_t pages = ReservedPages(shape, TokenCount(kTokens)).value(), all = kBytes / shape.page_bytes.value();
    if (of_exact == 0) of_exact = all / pages;
    std::printf("# capacity: %s: %lld sequences of %lld tokens in 100 GB, %.3f GB each, %.2f times those of exact\n", mode,
                static_cast<long long>(all / pages), static_cast<long long>(kTokens),
                static_cast<double>(pages * shape.page_bytes.value()) * 1e-9,
                static_cast<double>(all / pages) / static_cast<double>(of_exact));
  }
}

// Of a large square product, which prompts are compared with.
void MatrixSpeed(kernels::cuda::Stream stream) {
  constexpr int64_t kSide = 8192;
  constexpr int32_t kTimes = 20;
  kernels::cuda::Products products;
  kernels::cuda::DeviceMemory weights, rows, out;
  SPH_CHECK(products.Create(int64_t{32} << 20));
  Require(out.Allocate(kSide * kSide * 4));
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> some(static_cast<size_t>(kSide * kSide));
  for (kernels::cuda::DeviceMemory* memory : {&weights, &rows}) {
    for (size_t i = 0; i < some.size(); ++i) some[i] = i < 1'000'003 ? kernels::F32ToF16(normal(random)) : some[i - 1'000'003];
    Require(memory->Allocate(kSide * kSide * 2));
    Require(kernels::cuda::CopyToDevice(stream, memory->data(), some.data(), memory->bytes()));
  }
  Clock::time_point start;
  for (int32_t i = 0; i < kTimes + 3; ++i) {
    if (i == 3) {
      Require(kernels::cuda::Synchronize(stream));
      start = Clock::now();
    }
    SPH_CHECK(products.Multiply(stream, {.weights = weights.data<uint16_t>(), .rows = rows.data<uint16_t>(), .out = out.data<float>(),
                                         .m = static_cast<int32_t>(kSide), .n = kSide, .k = kSide}));
  }
  Require(kernels::cuda::Synchronize(stream));
  std::printf("# f16 product of 8192 x 8192 x 8192: %.0f TFLOP/s\n", 2.0 * kSide * kSide * kSide * kTimes / SecondsSince(start) * 1e-12);
}

int Main(int argc, char** argv) {
  std::vector<const char*> names(argv + 1, argv + argc);
  const auto is_case = [](const char* name) { return name[0] != '-'; };
  if (std::ranges::none_of(names, is_case)) names.insert(names.end(), std::begin(kUsual), std::end(kUsual));
  std::vector<Case> cases;
  How how;
  for (const char* name : names) {
    if (std::strcmp(name, "--launched") == 0) {
      how.recorded = false;
    } else if (std::strcmp(name, "--in-order") == 0) {
      how.in_order = true;
    } else if (std::strcmp(name, "capacity") == 0) {
      Capacity();
    } else {
      cases.push_back(ParseCase(name));
    }
  }
  if (cases.empty()) return 0;
  Require(kernels::cuda::UseDevice(0));
  kernels::cuda::OwnStream stream;
  Require(stream.Create());
  MatrixSpeed(stream.get());
  std::printf("case,batch,context,layers,prompt_tokens_per_s,prompt_tflops,seal_s,step_ms,best_ms,host_ms,floor_ms,tokens_per_s,"
              "pages_gb\n");
  TransformerSpec spec;
  CudaWeights weights;
  for (int32_t layers = 0; const Case& c : cases) {
    if (c.layers != layers) {
      weights = {};
      layers = c.layers;
      spec = Llama8B(layers);
      weights = RandomWeights(spec, stream.get());
    }
    Measure(c, spec, weights, how, stream.get());
  }
  return 0;
}

}  // namespace
}  // namespace spherical::engine

int main(int argc, char** argv) { return spherical::engine::Main(argc, argv); }
