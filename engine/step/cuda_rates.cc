#include "engine/step/cuda_rates.h"

#include <algorithm>
#include <limits>

#include "engine/kv/head_notes.h"
#include "engine/kv/retier.h"
#include "engine/step/device_pieces.h"
#include "kernels/base/check.h"

namespace spherical::engine {
namespace {

using kernels::kLadderTiers;
using kernels::kPriceSteps;
using kernels::kRungs;
using kernels::kTokenTile;
using kernels::LadderSteps;
using kernels::Tier;
using kernels::cuda::CodedRates;
using kernels::cuda::CudaStatus;
using kernels::cuda::EncodeItem;
using kernels::cuda::ErrorItems;
using kernels::cuda::ExactRates;
using kernels::cuda::KeptQuery;
using kernels::cuda::kRateChunkTokens;
using kernels::cuda::RateCounts;
using kernels::cuda::SampleItem;
using kernels::cuda::SampleState;
using kernels::cuda::ToldCounts;
using kernels::cuda::TurnSample;

constexpr int64_t kInputBytesMin = int64_t{8} << 20;
constexpr int64_t kScratchBytesMin = int64_t{128} << 20;
constexpr int64_t kAnswerBytesMin = int64_t{8} << 20;

int64_t Rounded(int64_t bytes) { return RoundUp(bytes, 256); }
int32_t TokensOfExact(const MeasureItem& item) { return item.end - item.pages->exact_begin; }
// Positions from `newest` on, sinks apart.
int32_t NewestOf(const MeasureItem& item) {
  if (item.pages->local()) return 0;
  return std::max(0, item.end - std::max({item.newest, item.pages->sinks(), item.pages->exact_begin}));
}

// The scratch of an exact head. From null it only counts.
struct ExactScratch {
  float *mean, *square, *weights, *energy, *partial, *output;
  kernels::CodingError* errors;
  int32_t* counted;
  SampleState* states;
  float* turns;  // [turns, 2, tokens]
  int64_t bytes;

  ExactScratch(uint8_t* base, int32_t d, int32_t tokens, int32_t turns_count, int32_t queries) {
    const int32_t chunks = static_cast<int32_t>(CeilDiv(tokens, kRateChunkTokens));
    const int32_t tiles = static_cast<int32_t>(CeilDiv(tokens, kTokenTile));
    const int64_t sample_chunks = CeilDiv(tokens, kernels::cuda::kSampleChunkTokens) + 1;
    DevicePieces pieces(base);
    mean = pieces.Take<float>(tokens);
    square = pieces.Take<float>(tokens);
    weights = pieces.Take<float>(turns_count > 0 ? tokens : 0);
    energy = pieces.Take<float>(tokens);
    partial = pieces.Take<float>(int64_t{chunks + 1} * (d + 1));
    output = pieces.Take<float>(d + 4);
    errors = pieces.Take<kernels::CodingError>(int64_t{tiles} * kLadderTiers * kTokenTile);
    counted = pieces.Take<int32_t>(std::max(turns_count, 1));
    states = pieces.Take<SampleState>(sample_chunks * std::max(queries, 1));
    turns = pieces.Take<float>(int64_t{turns_count} * 2 * tokens);
    bytes = pieces.used();
  }
};

}  // namespace

CudaStatus CudaRates::Create(int32_t sequences, int32_t context_max, const KvArenas& arenas, std::span<const float> value_weights,
                             const kernels::cuda::DeviceGeometry* geometries, const kernels::CodedLosses* losses) {
  arenas_ = arenas;
  value_weights_ = value_weights;
  geometries_ = geometries;
  losses_ = losses;
  kept_.resize(static_cast<size_t>(spec_.layers));
  // A sampled position every fourth row, at the most.
  const int64_t kept = (kStepRowsMax / 4 + int64_t{sequences}) * spec_.heads;
  Note(kept_input_.Create(spec_.layers * StepInput::BytesFor(kept * int64_t{sizeof(KeptQuery)})));

  const int32_t tokens = context_max + kStepRowsMax, queries = kSampledPositions * group();
  const int32_t windows = std::ranges::max(spec_.windows.empty() ? std::vector<int32_t>{0} : spec_.windows);
  const int64_t whole = ExactScratch(nullptr, spec_.head_dim, tokens, 0, queries).bytes;
  const int64_t local = windows == 0 ? 0 : ExactScratch(nullptr, spec_.head_dim, std::min(tokens, windows + 2 * kStepRowsMax),
                                                        kSampledPositions, queries).bytes;
  const int64_t items = CeilDiv(tokens, kTokenTile) * int64_t{sizeof(EncodeItem)};
  Note(scratch_.Allocate(std::max(kScratchBytesMin, 2 * (std::max(whole, local) + items) + (1 << 20))));
  Note(input_.Create(std::max<int64_t>(kInputBytesMin, 4 * int64_t{tokens})));
  const int64_t answer = int64_t{sizeof(RateCounts)} + int64_t{tokens} * int64_t{sizeof(LadderSteps)} + (1 << 16);
  Note(answers_.Allocate(std::max(kAnswerBytesMin, answer)));
  Note(pinned_answers_.Allocate(std::max(kAnswerBytesMin, answer)));
  Note(counts_.Allocate(kCodedMax * int64_t{sizeof(RateCounts)}));
  Note(told_.Allocate(kCodedMax * int64_t{sizeof(ToldCounts)}));
  std::vector<kernels::cuda::CodedSlot> slots(kernels::cuda::kErrorSlots);
  kernels::cuda::PutErrorSlots(slots.data());
  const int64_t slot_bytes = static_cast<int64_t>(slots.size() * sizeof(slots[0]));
  Note(slots_.Allocate(slot_bytes));
  Note(kernels::cuda::CopyToDevice(stream_, slots_.data(), slots.data(), slot_bytes));
  Note(kernels::cuda::Synchronize(stream_));
  return status_;
}

CudaStatus CudaRates::Begin(const StepPlan& plan) {
  std::ranges::fill(kept_, Kept{});
  kept_input_.Begin();
  const auto takes = [](const StepItem& item) {
    const QuerySampling& sampling = item.pages->sampling();
    const int32_t after = item.position + static_cast<int32_t>(item.tokens.size());
    return sampling.stride > 0 && item.position < sampling.end && after >= sampling.stride;
  };
  if (std::ranges::none_of(plan.items, takes)) return CudaStatus::kOk;
  const int32_t d = spec_.head_dim;
  for (int32_t layer = 0; layer < spec_.layers; ++layer) {
    keeping_.clear();
    int32_t row = 0;
    for (const StepItem& item : plan.items) {
      const QuerySampling& sampling = item.pages->sampling();
      for (int32_t t = 0; t < static_cast<int32_t>(item.tokens.size()); ++t, ++row) {
        if (!sampling.Takes(item.position + t)) continue;
        for (int32_t head = 0; head < spec_.heads; ++head) {
          const HeadPages& pages = item.pages->at(layer, head / group());
          if (pages.samples.empty()) continue;
          const int32_t vector = sampling.SlotOf(item.position + t) * group() + head % group();
          const PageId page = pages.samples[static_cast<size_t>(vector / kSampleVectorsPerPage)];
          uint8_t* const to = arenas_.exact + page * arenas_.exact_page_bytes + int64_t{vector % kSampleVectorsPerPage} * d * 2;
          keeping_.push_back({.to = reinterpret_cast<uint16_t*>(to), .from = row * spec_.heads + head});
        }
      }
    }
    kept_[static_cast<size_t>(layer)] = {.queries = kept_input_.Put(std::span<const KeptQuery>(keeping_)),
                                         .count = static_cast<int32_t>(keeping_.size())};
  }
  return kept_input_.Send(stream_);
}

CudaStatus CudaRates::Keep(int32_t layer, const uint16_t* queries) {
  const Kept& kept = kept_[static_cast<size_t>(layer)];
  return kernels::cuda::KeepQueries(stream_, spec_.head_dim, queries, kept.queries, kept.count);
}

CudaRates::Needs CudaRates::NeedsOf(const MeasureItem& item) const {
  Needs needs;
  const HeadPages& pages = *item.pages;
  if (item.kind != MeasureItem::Kind::kExact) {
    needs.coded = 1;
    for (const HeadPages::Coded& list : pages.tiers) needs.input += StepInput::BytesFor(static_cast<int64_t>(list.pages.size()) * 4);
    needs.input += kLadderTiers * StepInput::BytesFor(sizeof(CodedRates));
    return needs;
  }
  const int32_t tokens = TokensOfExact(item), turns = Turns(item) ? item.samples : 0;
  needs.scratch = ExactScratch(nullptr, spec_.head_dim, tokens, turns, item.samples * group()).bytes +
                  CeilDiv(tokens, kTokenTile) * int64_t{sizeof(EncodeItem)} + 256;
  needs.input = 4 * static_cast<int64_t>(pages.exact.size() + pages.notes.size() + pages.samples.size()) +
                std::max(turns, 1) * int64_t{sizeof(SampleItem)} + turns * int64_t{sizeof(TurnSample)} + int64_t{sizeof(ExactRates)} +
                int64_t{sizeof(ErrorItems)} + 8 * 256;
  needs.answer = Rounded(sizeof(RateCounts)) + Rounded(NewestOf(item) * int64_t{sizeof(LadderSteps)}) +
                  Rounded(CeilDiv(tokens, kRateChunkTokens) * kLadderTiers * int64_t{sizeof(double)});
  return needs;
}

CudaStatus CudaRates::Measure(std::span<const MeasureItem> items, std::span<RateCurve> curves) {
  status_ = CudaStatus::kOk;
  while (!items.empty() && status_ == CudaStatus::kOk) {
    Needs all;
    size_t count = 0;
    for (; count < items.size(); ++count) {
      const Needs own = NeedsOf(items[count]);
      if (all.input + own.input > input_.bytes() - 4096 || all.scratch + own.scratch > scratch_.bytes() ||
          all.answer + own.answer > answers_.bytes() || all.coded + own.coded > kCodedMax) {
        break;
      }
      all = {.input = all.input + own.input, .scratch = all.scratch + own.scratch, .answer = all.answer + own.answer,
             .coded = all.coded + own.coded};
    }
    SPH_CHECK(count > 0);
    RunBatch(items.first(count), curves.first(count), all.answer);
    items = items.subspan(count);
    curves = curves.subspan(count);
  }
  return status_;
}

void CudaRates::RunBatch(std::span<const MeasureItem> items, std::span<RateCurve> curves, int64_t answer_bytes) {
  samples_.clear();
  errors_.clear();
  exact_.clear();
  coded_.clear();
  where_.clear();
  encode_count_ = slots_max_ = 0;
  samples_queries_max_ = tokens_max_ = 1;
  input_.Begin();
  int64_t tiles = 0, used = 0, answered = 0;
  int32_t coded_heads = 0;
  for (const MeasureItem& item : items) {
    if (item.kind == MeasureItem::Kind::kExact) tiles += CeilDiv(TokensOfExact(item), kTokenTile);
  }
  encode_items_ = scratch_.data<EncodeItem>();
  used = Rounded(tiles * int64_t{sizeof(EncodeItem)});
  for (const MeasureItem& item : items) {
    Answer& answer = where_.emplace_back();
    if (item.kind != MeasureItem::Kind::kExact) {
      answer.coded = coded_heads++;
      AskCoded(item, answer);
      continue;
    }
    answer.counts = answered;
    answered += Rounded(sizeof(RateCounts));
    answer.newest = answered;
    answer.newest_count = NewestOf(item);
    answered += Rounded(answer.newest_count * int64_t{sizeof(LadderSteps)});
    answer.summed = answered;
    answer.chunks = static_cast<int32_t>(CeilDiv(TokensOfExact(item), kRateChunkTokens));
    answered += Rounded(answer.chunks * kLadderTiers * int64_t{sizeof(double)});
    AskExact(item, answer, scratch_.data() + used);
    used += ExactScratch(nullptr, spec_.head_dim, TokensOfExact(item), Turns(item) ? item.samples : 0, item.samples * group()).bytes;
  }
  SPH_CHECK(answered <= answer_bytes && used <= scratch_.bytes());
  const SampleItem* const samples = input_.Put(std::span<const SampleItem>(samples_));
  const ErrorItems* const errors = input_.Put(std::span<const ErrorItems>(errors_));
  const ExactRates* const exact = input_.Put(std::span<const ExactRates>(exact_));
  const CodedRates* const coded = input_.Put(std::span<const CodedRates>(coded_));
  Note(input_.Send(stream_));
  if (answered > 0) Note(kernels::cuda::FillBytes(stream_, answers_.data(), 0, answered));
  if (coded_heads > 0) Note(kernels::cuda::FillBytes(stream_, counts_.data(), 0, coded_heads * int64_t{sizeof(RateCounts)}));
  const int32_t d = spec_.head_dim, heads = static_cast<int32_t>(exact_.size());
  Note(kernels::cuda::SampleExact(stream_,
                                  {.head_dim = d, .scale = spec_.attention_scale, .softcap = spec_.attention_softcap,
                                   .page_bytes = arenas_.exact_page_bytes, .queries_max = samples_queries_max_,
                                   .tokens_max = tokens_max_},
                                  arenas_.exact, samples, static_cast<int32_t>(samples_.size())));
  const kernels::cuda::RateShape shape = {.head_dim = d, .scale = spec_.attention_scale, .page_bytes = arenas_.exact_page_bytes,
                                          .notes_per_page = NotesPerPage(d), .tokens_max = tokens_max_};
  Note(kernels::cuda::MakeErrorItems(stream_, shape, arenas_.exact, errors, heads, slots_.data<kernels::cuda::CodedSlot>()));
  Note(kernels::cuda::Encode(stream_, d, geometries_, encode_items_, encode_count_));
  Note(kernels::cuda::MeasureExact(stream_, shape, arenas_.exact, exact, heads));
  Note(kernels::cuda::CountCoded(stream_, d, losses_, arenas_.coded, arenas_.coded_page_bytes, coded, static_cast<int32_t>(coded_.size()),
                                 slots_max_));
  Note(kernels::cuda::TellCounts(stream_, counts_.data<RateCounts>(), coded_heads, told_.data<ToldCounts>()));
  if (answered > 0) Note(kernels::cuda::CopyToHost(stream_, pinned_answers_.data(), answers_.data(), answered));
  Note(kernels::cuda::Synchronize(stream_));
  if (status_ != CudaStatus::kOk) return;
  pool_.Run(static_cast<int32_t>(items.size()), [&](Shard shard) {
    const size_t i = static_cast<size_t>(shard.index);
    if (items[i].kind == MeasureItem::Kind::kExact) {
      ReadExact(items[i], where_[i], curves[i]);
    } else {
      ReadCoded(items[i], where_[i], curves[i]);
    }
  });
}

void CudaRates::AskExact(const MeasureItem& item, Answer& answer, uint8_t* base) {
  const HeadPages& pages = *item.pages;
  const int32_t tokens = TokensOfExact(item), turns = Turns(item) ? item.samples : 0;
  const ExactScratch scratch(base, spec_.head_dim, tokens, turns, item.samples * group());
  const PageId* const exact = input_.Put(std::span<const PageId>(pages.exact));
  const PageId* const query_pages = input_.Put(std::span<const PageId>(pages.samples));
  SampleItem sample = {.query_pages = query_pages,
                       .first_vector = item.first_sample * group(),
                       .ring = kSampledPositions * group(),
                       .queries = item.samples * group(),
                       .pages = exact,
                       .tokens = tokens,
                       .states = scratch.states,
                       .mean = scratch.mean,
                       .square = scratch.square,
                       .counted = scratch.counted};
  const TurnSample* asked = nullptr;
  int32_t asked_count = 0;
  if (turns == 0) {
    samples_.push_back(sample);
    samples_queries_max_ = std::max(samples_queries_max_, sample.queries);
  } else {
    std::vector<TurnSample> in_turn;
    for (int32_t s = 0; s < turns; ++s) {
      const int32_t seen = item.sample_position + s * item.sample_stride - pages.exact_begin + 1;
      if (seen < 1) continue;
      sample.first_vector = (item.first_sample + s) * group();
      sample.queries = group();
      sample.tokens = std::min(seen, tokens);
      // A turn's states: [chunks + 1, G], as many as all queries at once would need, over the turns.
      sample.states = scratch.states + int64_t{s} * group() * (CeilDiv(tokens, kernels::cuda::kSampleChunkTokens) + 1);
      sample.mean = scratch.turns + int64_t{2 * s} * tokens;
      sample.square = sample.mean + tokens;
      sample.counted = scratch.counted + s;
      samples_.push_back(sample);
      in_turn.push_back({.seen = seen, .mean = sample.mean, .square = sample.square, .counted = sample.counted});
    }
    samples_queries_max_ = std::max(samples_queries_max_, group());
    asked = input_.Put(std::span<const TurnSample>(in_turn));
    asked_count = static_cast<int32_t>(in_turn.size());
  }
  tokens_max_ = std::max(tokens_max_, tokens);
  errors_.push_back({.head = item.head, .tokens = tokens, .pages = exact, .errors = scratch.errors,
                     .items = encode_items_ + encode_count_});
  encode_count_ += static_cast<int32_t>(CeilDiv(tokens, kTokenTile));
  uint8_t* const answers = answers_.data();
  exact_.push_back({.head = item.head,
                    .tokens = tokens,
                    .first_position = pages.exact_begin,
                    .sinks = pages.sinks(),
                    .newest = item.newest,
                    .local = pages.local(),
                    .unit = value_weights_[static_cast<size_t>(item.head)] / item.residual,
                    .pages = exact,
                    .notes = input_.Put(std::span<const PageId>(pages.notes)),
                    .mean = scratch.mean,
                    .square = scratch.square,
                    .counted = scratch.counted,
                    .turns = asked,
                    .turn_count = asked_count,
                    .weights = turns == 0 ? nullptr : scratch.weights,
                    .errors = scratch.errors,
                    .energy = scratch.energy,
                    .partial = scratch.partial,
                    .output = scratch.output,
                    .counts = reinterpret_cast<RateCounts*>(answers + answer.counts),
                    .newest_steps = reinterpret_cast<LadderSteps*>(answers + answer.newest),
                    .summed = reinterpret_cast<double*>(answers + answer.summed)});
}

void CudaRates::AskCoded(const MeasureItem& item, const Answer& answer) {
  const int32_t rungs = item.kind == MeasureItem::Kind::kWhole ? 1 : kLadderTiers;
  for (int32_t r = 0; r < rungs; ++r) {
    const Tier tier = static_cast<Tier>(r);
    const auto [begin, end] = MovableSlots(*item.pages, tier);
    if (begin >= end) continue;
    coded_.push_back({.head = item.head,
                      .tier = tier,
                      .pages = input_.Put(std::span<const PageId>(item.pages->of(tier).pages)),
                      .begin = begin,
                      .end = end,
                      .counts = counts_.data<RateCounts>() + answer.coded});
    slots_max_ = std::max(slots_max_, end);
  }
}

void CudaRates::ReadExact(const MeasureItem& item, const Answer& answer, RateCurve& curve) const {
  const uint8_t* const answers = pinned_answers_.data();
  if (!item.pages->local()) {
    const RateCounts& counts = *reinterpret_cast<const RateCounts*>(answers + answer.counts);
    std::copy_n(counts.leaves[0], kLadderTiers * kPriceSteps, curve.below.Dense());
    for (const int32_t n : counts.leaves[0]) curve.tokens += n;
    const LadderSteps* const newest = reinterpret_cast<const LadderSteps*>(answers + answer.newest);
    curve.newest.assign(newest, newest + answer.newest_count);
  } else {  // what is best for the sum of its tokens' distortions is best for the mean
    const int32_t tokens = TokensOfExact(item);
    const double* const summed = reinterpret_cast<const double*>(answers + answer.summed);
    float mean[kRungs], bytes[kRungs];
    kernels::RungBytes(spec_.head_dim, bytes);
    for (int32_t r = 0; r < kLadderTiers; ++r) {
      double sum = 0;
      for (int32_t chunk = 0; chunk < answer.chunks; ++chunk) sum += summed[chunk * kLadderTiers + r];
      mean[r] = static_cast<float>(sum / std::max(tokens, 1));
    }
    mean[kLadderTiers] = std::numeric_limits<float>::infinity();
    LadderSteps steps = kernels::LadderOf(mean, bytes);
    steps.leaves[kLadderTiers - 1] = kPriceSteps;
    const int32_t old = std::clamp(item.newest - item.pages->exact_begin, 0, tokens);
    curve.AddTogether(old, steps, 0);
    curve.newest.assign(static_cast<size_t>(tokens - old), steps);
  }
  curve.Finish();
}

void CudaRates::ReadCoded(const MeasureItem& item, const Answer& answer, RateCurve& curve) const {
  const ToldCounts& counts = told_.data<ToldCounts>()[answer.coded];
  int32_t tokens = 0;
  const int32_t rungs = item.kind == MeasureItem::Kind::kWhole ? 1 : kLadderTiers;
  for (int32_t r = 0; r < rungs; ++r) {
    const auto [begin, end] = MovableSlots(*item.pages, static_cast<Tier>(r));
    tokens += std::max(0, end - begin);
  }
  if (!item.pages->local()) {
    curve.tokens = tokens;
    int32_t kept = 0;
    for (int32_t r = 0; r < kLadderTiers; ++r) kept += counts.end[r] - counts.begin[r];
    curve.below.Reserve(kept);
    for (int32_t r = 0; r < kLadderTiers; ++r) {
      curve.below.Put(static_cast<size_t>(r), counts.begin[r],
                      std::span(counts.leaves[r] + counts.begin[r], static_cast<size_t>(counts.end[r] - counts.begin[r])));
    }
    return;
  }
  if (tokens > 0) {  // distortion is what is saved times the price: the mean price is that of the mean token
    LadderSteps mean = {};
    for (int32_t r = 0; r < kLadderTiers; ++r) {
      double prices = 0;
      for (int32_t step = std::max(1, counts.begin[r]); step < counts.end[r]; ++step) {
        prices += counts.leaves[r][step] * static_cast<double>(kernels::PriceOf(step));
      }
      mean.leaves[r] = static_cast<uint16_t>(std::max(1, kernels::PriceStepOf(static_cast<float>(prices / tokens))));
    }
    curve.AddTogether(tokens, mean, static_cast<int32_t>(item.pages->older));
  }
  curve.Finish();
}

}  // namespace spherical::engine
