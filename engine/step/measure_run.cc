#include "engine/step/measure_run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/functional/function_ref.h"
#include "engine/kv/head_notes.h"
#include "engine/kv/retier.h"
#include "kernels/attention/exact_attention.h"
#include "kernels/base/check.h"
#include "kernels/base/float16.h"
#include "kernels/spherical/codec.h"
#include "kernels/spherical/ladder.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using kernels::kLadderTiers;
using kernels::kRungs;
using kernels::Tier;

constexpr int32_t kTile = kernels::kExactTokensPerPage;

float SquaredDistance(const float* a, const float* b, int32_t n) {
  float sum = 0;
  for (int32_t i = 0; i < n; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

// Measures one head's exact tokens.
class ExactMeasure {
 public:
  ExactMeasure(const MeasureContext& context, const KvArenas& arenas, const MeasureItem& item)
      : context_(context),
        arenas_(arenas),
        item_(item),
        geometry_(context.geometry.key(item.head)),
        d_(geometry_.head_dim),
        tokens_(item.end - item.pages->exact_begin),
        codec_(kernels::BestCodec()) {
    kernels::RungBytes(d_, bytes_);
  }

  void Run(RateCurve& curve) {
    Attend();
    MeanOutput();
    utility_.resize(static_cast<size_t>(tokens_));
    context_.estimator.estimate({.mean = std::span(mean_).first(utility_.size()), .square = std::span(square_).first(utility_.size())},
                                utility_);
    if (!item_.pages->local()) AddUpDrops();
    for (int32_t first = 0; first < tokens_; first += kTile) MeasureTile(first, std::min(kTile, tokens_ - first), curve);
    if (item_.pages->local()) AddTogether(curve);
    curve.Finish();
  }

 private:
  // Means over the sampled queries of p and p^2.
  void Attend() {
    const int32_t group = context_.spec.heads / context_.spec.kv_heads;
    const int32_t queries = item_.samples * group;
    const size_t padded = static_cast<size_t>(CeilDiv(tokens_, kTile)) * kTile;
    mean_.assign(padded, 0);
    square_.assign(padded, 0);
    std::vector<float> query(static_cast<size_t>(queries) * static_cast<size_t>(d_));
    for (int32_t q = 0; q < queries; ++q) {
      const int32_t vector = (item_.first_sample + q / group) % kSampledPositions * group + q % group;
      const PageId page = item_.pages->samples[static_cast<size_t>(vector / kSampleVectorsPerPage)];
      const uint8_t* from = arenas_.exact + page * arenas_.exact_page_bytes + int64_t{vector % kSampleVectorsPerPage} * d_ * 2;
      for (int32_t i = 0; i < d_; ++i) {
        uint16_t half;
        std::memcpy(&half, from + 2 * i, sizeof(half));
        query[static_cast<size_t>(q) * static_cast<size_t>(d_) + static_cast<size_t>(i)] = kernels::F16ToF32(half);
      }
    }
    std::vector<float> logits(kernels::kSampleQueriesMax * padded);
    const kernels::AttentionShape shape = {.head_dim = d_, .group = group, .scale = context_.spec.attention_scale,
                                           .softcap = context_.spec.attention_softcap, .page_bytes = arenas_.exact_page_bytes};
    // Queries of `first` and after it, about the first so many tokens; how many of them counted.
    const auto ask = [&](int32_t first, int32_t count, int32_t tokens, std::vector<float>& mean, std::vector<float>& square) {
      return kernels::BestExactAttention().sample(
          shape, arenas_.exact,
          {.query = query.data() + int64_t{first} * d_, .queries = count, .pages = item_.pages->exact.data(), .tokens = tokens,
           .logits = logits.data(), .mean = mean.data(), .square = square.data()});
    };
    if (item_.sample_stride > 0) return AskInTurn(group, ask);
    const int32_t counted = ask(0, queries, tokens_, mean_, square_);
    // Nobody to ask: all tokens are worth the same.
    const float each = counted == 0 ? 1 / static_cast<float>(tokens_) : 0, by = counted == 0 ? 0 : 1 / static_cast<float>(counted);
    for (float& p : mean_) p = p * by + each;
    for (float& p2 : square_) p2 = p2 * by + each * each;
  }

  // A local head, where nearness is most of what decides: a query is asked about the tokens before it, and what it sees in those that are
  // no longer new to it is what later ones will see. Tokens that are new to all of them are worth the mean of the others.
  void AskInTurn(int32_t group, absl::FunctionRef<int32_t(int32_t, int32_t, int32_t, std::vector<float>&, std::vector<float>&)> ask) {
    std::vector<float> output(mean_.size()), mean(mean_.size()), square(mean_.size());
    std::vector<int32_t> asked(mean_.size());
    int32_t counted = 0;
    for (int32_t s = 0; s < item_.samples; ++s) {
      const int32_t seen = item_.sample_position + s * item_.sample_stride - item_.pages->exact_begin + 1;
      const int32_t tokens = std::min(seen, tokens_);
      if (tokens < 1) continue;
      std::ranges::fill(mean, 0.0f);
      std::ranges::fill(square, 0.0f);
      const int32_t good = ask(s * group, group, tokens, mean, square);
      counted += good;
      for (int32_t t = 0; t < tokens; ++t) output[static_cast<size_t>(t)] += mean[static_cast<size_t>(t)];
      for (int32_t t = 0; t < std::min(tokens, seen - kNewestTokens); ++t) {
        const size_t at = static_cast<size_t>(t);
        mean_[at] += mean[at];
        square_[at] += square[at];
        asked[at] += good;
      }
    }
    double all_mean = 0, all_square = 0, all = 0;
    for (size_t t = 0; t < asked.size(); ++t) {
      all_mean += mean_[t];
      all_square += square_[t];
      all += asked[t];
    }
    const float each = 1 / static_cast<float>(tokens_);
    for (size_t t = 0; t < asked.size(); ++t) {
      const float by = asked[t] > 0 ? 1 / static_cast<float>(asked[t]) : 0;
      mean_[t] = asked[t] > 0 ? mean_[t] * by : all > 0 ? static_cast<float>(all_mean / all) : each;
      square_[t] = asked[t] > 0 ? square_[t] * by : all > 0 ? static_cast<float>(all_square / all) : each * each;
      output[t] = counted > 0 ? output[t] / static_cast<float>(counted) : each;
    }
    output_weights_ = std::move(output);
  }

  void Read(int32_t first, int32_t rows) {
    const PageId page = item_.pages->exact[static_cast<size_t>(first / kTile)];
    codec_.read_exact(d_, arenas_.exact + page * arenas_.exact_page_bytes, 0, rows, keys_, values_);
    codec_.rotate_values(d_, values_, d_, rows, values_);
  }

  void MeanOutput() {
    std::fill_n(output_, d_, 0.0f);
    for (int32_t first = 0; first < tokens_; first += kTile) {
      const int32_t rows = std::min(kTile, tokens_ - first);
      Read(first, rows);
      for (int32_t r = 0; r < rows; ++r) {
        const float p = (output_weights_.empty() ? mean_ : output_weights_)[static_cast<size_t>(first + r)];
        for (int32_t i = 0; i < d_; ++i) output_[i] += p * values_[r * d_ + i];
      }
    }
  }

  // Errors of coded tokens are as good as independent: their squares add up. What drops take away is not. Tokens that nobody looks at
  // closely are many, and where their values differ alike from the output (which has the sinks' values, near zero, in it) what goes with
  // them grows with the square of how many go. If all tokens below the mean of p^2 went, their loss together would be
  //     |sum_t mean p_t (v_t - o)|^2     where    sum_t mean p_t^2 |v_t - o|^2    is that of each for itself;
  // with half of them gone, one more costs 1 + their ratio times its own.
  void AddUpDrops() {
    double mean_square = 0;
    for (int32_t t = 0; t < tokens_; ++t) mean_square += square_[static_cast<size_t>(t)];
    mean_square /= std::max(tokens_, 1);
    double together[kernels::kHeadDimMax] = {}, alone = 0;
    for (int32_t first = 0; first < tokens_; first += kTile) {
      const int32_t rows = std::min(kTile, tokens_ - first);
      Read(first, rows);
      for (int32_t r = 0; r < rows; ++r) {
        const size_t at = static_cast<size_t>(first + r);
        if (square_[at] > mean_square || item_.pages->exact_begin + first + r < item_.pages->sinks()) continue;
        const float* value = values_ + r * d_;
        for (int32_t i = 0; i < d_; ++i) together[i] += static_cast<double>(mean_[at]) * (value[i] - output_[i]);
        alone += static_cast<double>(square_[at]) * SquaredDistance(value, output_, d_);
      }
    }
    double square = 0;
    for (int32_t i = 0; i < d_; ++i) square += together[i] * together[i];
    if (alone > 0) drops_ = static_cast<float>(1 + square / alone);
  }

  void MeasureTile(int32_t first, int32_t rows, RateCurve& curve) {
    Read(first, rows);
    codec_.map_keys(geometry_, keys_, d_, rows, z_);
    kernels::CodingError errors[kLadderTiers][kTile];
    for (int32_t r = 0; r < kLadderTiers; ++r) {
      codec_.encode(geometry_, static_cast<Tier>(r), z_, values_, rows, 0, page_, errors[r]);
    }
    const float unit = context_.value_weights[static_cast<size_t>(item_.head)] / item_.residual;
    const float scale2 = context_.spec.attention_scale * context_.spec.attention_scale;
    for (int32_t t = 0; t < rows; ++t) {
      const int32_t at = first + t, position = item_.pages->exact_begin + at;
      const float w = utility_[static_cast<size_t>(at)] * unit;
      const float away = SquaredDistance(values_ + t * d_, output_, d_);
      float distortion[kRungs];
      for (int32_t r = 0; r < kLadderTiers; ++r) {
        distortion[r] = w * (std::min(kernels::kDropPremium, scale2 * errors[r][t].key) * away + errors[r][t].value);
      }
      const float utility = kernels::kDropPremium * w * away;
      distortion[kLadderTiers] = utility * drops_;
      for (int32_t r = 0; r < kLadderTiers; ++r) summed_[r] += distortion[r];
      const kernels::LadderSteps steps = kernels::LadderOf(distortion, bytes_);
      const PageId notes = item_.pages->notes[static_cast<size_t>(at / NotesPerPage(d_))];
      NotesPage(arenas_.exact + notes * arenas_.exact_page_bytes, d_)
          .Write(at % NotesPerPage(d_), steps, kernels::UtilityByteOf(utility));
      if (position < item_.pages->sinks() || item_.pages->local()) continue;
      if (position < item_.newest) {
        curve.Add(steps);
      } else {
        curve.newest.push_back(steps);
      }
    }
  }

  // A local head: what is best for the sum of its tokens' distortions is best for the mean.
  void AddTogether(RateCurve& curve) const {
    float mean[kRungs];
    for (int32_t r = 0; r < kLadderTiers; ++r) mean[r] = static_cast<float>(summed_[r] / std::max(tokens_, 1));
    mean[kLadderTiers] = std::numeric_limits<float>::infinity();
    kernels::LadderSteps steps = kernels::LadderOf(mean, bytes_);
    steps.leaves[kLadderTiers - 1] = kernels::kPriceSteps;
    const int32_t old = std::clamp(item_.newest - item_.pages->exact_begin, 0, tokens_);
    curve.AddTogether(old, steps, 0);
    curve.newest.assign(static_cast<size_t>(tokens_ - old), steps);
  }

  const MeasureContext& context_;
  const KvArenas& arenas_;
  const MeasureItem& item_;
  const kernels::KeyGeometry& geometry_;
  const int32_t d_, tokens_;
  const kernels::CodecImpl& codec_;
  float bytes_[kRungs];
  std::vector<float> mean_, square_, utility_;
  std::vector<float> output_weights_;               // means of p for `output_`, where they are not mean_
  float drops_ = 1;                                 // what a drop costs beside the others, over what it costs alone
  double summed_[kLadderTiers] = {};                // distortion on each rung, of all tokens
  alignas(64) float output_[kernels::kHeadDimMax];  // o, rotated as values are
  alignas(64) float keys_[kTile * kernels::kHeadDimMax], values_[kTile * kernels::kHeadDimMax], z_[kTile * kernels::kHeadDimMax];
  alignas(64) uint8_t page_[kernels::PageBytes(kernels::kHeadDimMax)];  // codes that nobody keeps
};

// A head's coded tokens, from what is in their pages.
void MeasureCoded(const MeasureContext& context, const KvArenas& arenas, const MeasureItem& item, RateCurve& curve) {
  const kernels::CodedLosses losses = kernels::CodedLossesOf(context.geometry.key(item.head), context.spec.attention_scale);
  const kernels::CodecImpl& codec = kernels::BestCodec();
  const int32_t d = context.spec.head_dim, rungs = item.kind == MeasureItem::Kind::kWhole ? 1 : kLadderTiers;
  kernels::TileSteps steps;
  int32_t tokens = 0;
  double prices[kLadderTiers] = {};  // at which tokens leave each rung, summed
  for (int32_t r = 0; r < rungs; ++r) {
    const Tier tier = static_cast<Tier>(r);
    const HeadPages::Coded& list = item.pages->of(tier);
    const int32_t page_tokens = kernels::TokensPerPage(tier, d);
    const auto [begin, end] = MovableSlots(*item.pages, tier);
    for (int32_t first = 0; first < end && begin < end; first += kernels::kTokenTile) {
      const uint8_t* page = arenas.coded + list.pages[static_cast<size_t>(first / page_tokens)] * arenas.coded_page_bytes;
      codec.ladders(losses, d, tier, page, first % page_tokens / kernels::kTokenTile, steps);
      const int32_t from = std::max(begin - first, 0), to = std::min(end - first, kernels::kTokenTile);
      if (!item.pages->local()) {
        curve.Add(r, steps, from, to);
        continue;
      }
      for (int32_t i = from; i < to; ++i) {
        for (int32_t s = r; s < kLadderTiers; ++s) prices[s] += static_cast<double>(kernels::PriceOf(steps.leaves[s][i]));
      }
      tokens += std::max(to - from, 0);
    }
  }
  if (tokens > 0) {  // a local head. Distortion is what is saved times the price: the mean price is that of the mean token
    kernels::LadderSteps mean = {};
    for (int32_t r = 0; r < kLadderTiers; ++r) {
      mean.leaves[r] = static_cast<uint16_t>(std::max(1, kernels::PriceStepOf(static_cast<float>(prices[r] / tokens))));
    }
    curve.AddTogether(tokens, mean, static_cast<int32_t>(item.pages->older));
  }
  curve.Finish();
}

}  // namespace

std::vector<float> ValueWeights(const TransformerSpec& spec, const Weights& weights, ThreadPool& pool) {
  std::vector<float> result(static_cast<size_t>(spec.layers * spec.kv_heads));
  const int32_t group_floats = spec.heads / spec.kv_heads * spec.head_dim;
  pool.Run(spec.layers, [&](Shard shard) {
    const kernels::PackedMatrix& output = weights.layers[static_cast<size_t>(shard.index)].output;
    std::vector<float> row(static_cast<size_t>(spec.heads * spec.head_dim));
    std::vector<double> sums(static_cast<size_t>(spec.kv_heads));
    for (int64_t n = 0; n < output.outputs(); ++n) {
      kernels::UnpackRow(output, n, row.data());
      for (int32_t i = 0; i < spec.heads * spec.head_dim; ++i) {
        sums[static_cast<size_t>(i / group_floats)] += static_cast<double>(row[static_cast<size_t>(i)]) * row[static_cast<size_t>(i)];
      }
    }
    for (int32_t h = 0; h < spec.kv_heads; ++h) {
      result[static_cast<size_t>(shard.index * spec.kv_heads + h)] = static_cast<float>(sums[static_cast<size_t>(h)] / group_floats);
    }
  });
  return result;
}

std::vector<RateCurve> RunMeasure(const MeasureContext& context, const KvArenas& arenas, std::span<const MeasureItem> items,
                                  ThreadPool& pool) {
  std::vector<RateCurve> curves(items.size());
  pool.Run(static_cast<int32_t>(items.size()), [&](Shard shard) {
    const MeasureItem& item = items[static_cast<size_t>(shard.index)];
    RateCurve& curve = curves[static_cast<size_t>(shard.index)];
    if (item.kind == MeasureItem::Kind::kExact) {
      ExactMeasure(context, arenas, item).Run(curve);
    } else {
      MeasureCoded(context, arenas, item, curve);
    }
  });
  return curves;
}

}  // namespace spherical::engine
