// Measures what modes do to a prompt: run.py asks, one line of JSON per command on standard input, one line of JSON per answer.
//
//   quality_worker MODEL THREADS f32|int8 TOKENS_MAX [cpu|cuda:N]   answers {"vocabulary", "context_max", ...} once the model is loaded
//
//   {"do": "check", "modes": [NAME...]}            an error if one is unknown
//   {"do": "geometry", "source": S}                how keys of modes without a geometry of their own are coded. S: "plain" (as without this
//                                                  command); "self", the model's own text; "text", with "texts": [FILE...] and "tokens": of
//                                                  each; "file", with "file": one that sphericalctl calibrate made
//   {"do": "tokenize", "file": F} or {"text": T}   what later commands take tokens from                      {"tokens": N}
//   {"do": "begin", "tokens": 6144}                       a new prefix; the one before is forgotten
//   {"do": "prefill", "first": I, "tokens": N}     appends tokens [I, I + N) of the text to the prefix, exactly; a model's own first
//                                                  token, where its texts begin with one, comes before them as in serving
//   {"do": "exact", "first": I, "tokens": N}       the distributions after each of these, which modes are compared with  {"nll": ...}
//   {"do": "mode", "name": NAME}                   keeps the prefix so and goes through the same tokens
//                                                  {"mean_kl", "delta_nll", "top1", "rate_bits", "rate_real_bits"}
//   {"do": "ask", "name": NAME, "questions": [{"question": Q, "answer": A}...]}
//                                                  each after the prefix kept so, none after another  {"answers": [{"logprob", "greedy"}]}
//
// Anything wrong is {"error": MESSAGE} and the end: a measurement with a failed part is none.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/calibrate/calibration.h"
#include "engine/calibrate/geometry_solver.h"
#include "engine/model/geometry_file.h"
#include "kernels/base/units.h"
#include "tests/quality/divergence.h"
#include "tests/quality/mode.h"
#include "tests/quality/scoring_model.h"

namespace spherical::quality {
namespace {

using engine::TokenId;
using nlohmann::json;

void Answer(const json& answer) {
  std::printf("%s\n", answer.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  std::fflush(stdout);
}

[[noreturn]] void Fail(const std::string& message) {
  Answer({{"error", message}});
  std::exit(1);
}

template <class T>
T OrFail(absl::StatusOr<T> value) {
  if (!value.ok()) Fail(std::string(value.status().message()));
  return *std::move(value);
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) Fail("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// What `exact` said after each scored token.
struct Reference {
  std::vector<TokenId> tokens;   // [rows] scored
  std::vector<float> logits;     // [rows, vocabulary]
  std::vector<double> log_sums;  // [rows]
};

class Worker {
 public:
  Worker(std::string model_path, std::unique_ptr<ScoringModel> model) : model_path_(std::move(model_path)), model_(std::move(model)) {}

  json Run(const json& command) {
    using Verb = json (Worker::*)(const json&);
    static const std::map<std::string, Verb> verbs = {
        {"check", &Worker::Check}, {"geometry", &Worker::Geometry}, {"tokenize", &Worker::Tokenize}, {"begin", &Worker::Begin},
        {"prefill", &Worker::Prefill}, {"exact", &Worker::Exact}, {"mode", &Worker::KeepAndScore}, {"ask", &Worker::Ask}};
    const auto verb = verbs.find(command.at("do"));
    if (verb == verbs.end()) Fail("unknown command: " + command.dump());
    return (this->*verb->second)(command);
  }

 private:
  Mode ModeNamed(const std::string& name) const { return OrFail(ParseMode(name, model_->spec().head_dim)); }

  json Check(const json& command) {
    for (const json& name : command.at("modes")) {
      const Mode mode = ModeNamed(name);
      if (const std::string why = model_->WhyNot(mode); !why.empty()) Fail(name.get<std::string>() + ": " + why);
    }
    return json::object();
  }

  json Geometry(const json& command) {
    const std::string source = command.at("source");
    if (source == "self") Use(Solve(OrFail(engine::SampleItself(model_->for_calibration(), {}, {}))));
    if (source == "text") Use(Solve(OrFail(engine::ReadTexts(model_->for_calibration(), TextsOf(command), {}))));
    if (source == "file") Use(ReadStored(command.at("file")));
    return json::object();
  }

  void Use(engine::ModelGeometry geometry) {
    if (const absl::Status used = model_->UseGeometry(std::move(geometry)); !used.ok()) Fail(std::string(used.message()));
  }

  engine::ModelGeometry Solve(const engine::KeyStatistics& statistics) {
    return OrFail(engine::SolveGeometry(statistics, engine::PositionsOf(model_->spec(), model_->spec().context_max), model_->threads()));
  }

  std::vector<std::vector<TokenId>> TextsOf(const json& command) const {
    std::vector<std::vector<TokenId>> texts;
    for (const json& file : command.at("texts")) {
      texts.push_back(Encode(ReadFile(file)));
      if (static_cast<int32_t>(texts.back().size()) < engine::kTextTokensMin) {
        Fail(file.get<std::string>() + " has " + std::to_string(texts.back().size()) + " tokens; calibration needs at least " +
             std::to_string(engine::kTextTokensMin));
      }
      texts.back().resize(std::min(texts.back().size(), command.at("tokens").get<size_t>()));
    }
    return texts;
  }

  engine::ModelGeometry ReadStored(const std::string& path) {
    const engine::TransformerSpec& spec = model_->spec();
    const std::atomic<bool> stop = false;
    const engine::Sha256 hash = OrFail(engine::HashFile(model_path_, stop));
    return OrFail(engine::ReadGeometry(path, {.shape = {.layers = spec.layers, .kv_heads = spec.kv_heads, .head_dim = spec.head_dim},
                                              .model = hash,
                                              .context = spec.context_max}))
        .geometry;
  }

  json Tokenize(const json& command) {
    tokens_ = Encode(command.contains("file") ? ReadFile(command["file"]) : command.at("text").get<std::string>());
    return {{"tokens", tokens_.size()}};
  }

  json Begin(const json& command) {
    prefix_.reset();
    reference_ = {};
    prefix_ = model_->Begin(command.at("tokens").get<int32_t>());
    return json::object();
  }

  json Prefill(const json& command) {
    if (prefix_->tokens == 0) model_->Enter(*prefix_, OrFail(model_->tokenizer().Encode("", {})));
    model_->Enter(*prefix_, Tokens(command));
    return json::object();
  }

  json Exact(const json& command) {
    const std::span<const TokenId> tokens = Tokens(command);
    const size_t vocabulary = static_cast<size_t>(model_->spec().vocabulary);
    reference_.tokens.assign(tokens.begin(), tokens.end());
    reference_.logits.resize(tokens.size() * vocabulary);
    reference_.log_sums.resize(tokens.size());
    double nll = 0;
    const KvStore::Handle kept = model_->kv().Share(*prefix_);
    ForRows(*kept, tokens, [&](size_t row, std::span<const float> logits) {
      std::ranges::copy(logits, reference_.logits.begin() + static_cast<std::ptrdiff_t>(row * vocabulary));
      reference_.log_sums[row] = LogSumExp(logits);
    });
    for (size_t row = 0; row + 1 < tokens.size(); ++row) nll -= ExactAt(row).LogProbability(tokens[row + 1]);
    return {{"nll", nll / static_cast<double>(tokens.size() - 1)}};
  }

  json KeepAndScore(const json& command) {
    if (reference_.tokens.empty()) Fail("mode: nothing exact to compare with");
    const Mode mode = ModeNamed(command.at("name"));
    const KvStore::Handle kept = model_->Keep(*prefix_, mode);
    const KvRate rate = model_->RateOf(*kept, mode);
    const size_t rows = reference_.tokens.size();
    std::vector<double> kl(rows), nll_change(rows), same_top(rows);
    ForRows(*kept, reference_.tokens, [&](size_t row, std::span<const float> logits) {
      const Distribution exact = ExactAt(row), other = DistributionOf(logits);
      kl[row] = KlDivergence(exact, other);
      same_top[row] = Likeliest(exact.logits) == Likeliest(logits) ? 1 : 0;
      if (row + 1 < rows) {  // what follows the last one is not among the tokens
        const TokenId next = reference_.tokens[row + 1];
        nll_change[row] = exact.LogProbability(next) - other.LogProbability(next);
      }
    });
    const auto mean = [](const std::vector<double>& values, size_t count) {
      double sum = 0;
      for (const double value : values) sum += value;
      return sum / static_cast<double>(count);
    };
    return {{"mean_kl", mean(kl, rows)},
            {"delta_nll", mean(nll_change, rows - 1)},
            {"top1", mean(same_top, rows)},
            {"rate_bits", rate.bits},
            {"rate_real_bits", rate.real_bits}};
  }

  json Ask(const json& command) {
    const KvStore::Handle kept = model_->Keep(*prefix_, ModeNamed(command.at("name")));
    json answers = json::array();
    for (const json& one : command.at("questions")) answers.push_back(AskOne(*kept, Encode(one.at("question")), Encode(one.at("answer"))));
    return {{"answers", answers}};
  }

  json AskOne(Kv& kept, std::vector<TokenId> question, const std::vector<TokenId>& answer) {
    const int32_t before = kept.tokens;
    const size_t asked = question.size();
    question.insert(question.end(), answer.begin(), answer.end() - 1);
    std::vector<double> logprob(question.size());
    std::vector<uint8_t> likeliest(question.size(), 1);
    ForRows(kept, question, [&](size_t row, std::span<const float> logits) {
      if (row + 1 < asked) return;
      const TokenId next = answer[row + 1 - asked];
      logprob[row] = DistributionOf(logits).LogProbability(next);
      likeliest[row] = Likeliest(logits) == next;
    });
    model_->kv().Rewind(kept, before);
    double sum = 0;
    for (const double one : logprob) sum += one;
    return {{"logprob", sum}, {"greedy", std::ranges::all_of(likeliest, [](uint8_t same) { return same != 0; })}};
  }

  // The logits after each token, shown from several threads at once.
  void ForRows(Kv& kv, std::span<const TokenId> tokens, const std::function<void(size_t row, std::span<const float> logits)>& see) {
    const size_t vocabulary = static_cast<size_t>(model_->spec().vocabulary);
    model_->Score(kv, tokens, [&](int32_t first, std::span<const float> logits) {
      model_->threads().Run(static_cast<int32_t>(logits.size() / vocabulary), [&](Shard shard) {
        see(static_cast<size_t>(first + shard.index), logits.subspan(static_cast<size_t>(shard.index) * vocabulary, vocabulary));
      });
    });
  }

  Distribution ExactAt(size_t row) const {
    const size_t vocabulary = static_cast<size_t>(model_->spec().vocabulary);
    return {std::span(reference_.logits).subspan(row * vocabulary, vocabulary), reference_.log_sums[row]};
  }

  std::vector<TokenId> Encode(const std::string& text) const { return OrFail(model_->tokenizer().Encode(text, {.add_bos = false})); }

  std::span<const TokenId> Tokens(const json& command) const {
    const size_t first = command.at("first"), count = command.at("tokens");
    if (first + count > tokens_.size()) Fail("the text has " + std::to_string(tokens_.size()) + " tokens");
    return std::span(tokens_).subspan(first, count);
  }

  const std::string model_path_;
  std::unique_ptr<ScoringModel> model_;
  std::vector<TokenId> tokens_;
  KvStore::Handle prefix_{nullptr, {}};
  Reference reference_;
};

}  // namespace
}  // namespace spherical::quality

// nlohmann's exceptions are run.py's mistakes: they may end the process.
int main(int argc, char** argv) {
  using namespace spherical;
  if (argc != 5 && argc != 6) quality::Fail("usage: quality_worker MODEL THREADS f32|int8 TOKENS_MAX [cpu|cuda:N]");
  const bool f32 = std::strcmp(argv[3], "f32") == 0;
  auto model = quality::OrFail(quality::ScoringModel::Load(
      argv[1], {.activations = f32 ? kernels::ActivationType::kF32 : kernels::ActivationType::kInt8,
                .threads = std::atoi(argv[2]),
                .tokens_max = TokenCount(std::atoll(argv[4]) + 1),
                .device = argc > 5 ? argv[5] : "cpu"}));
  const engine::TransformerSpec& spec = model->spec();
  quality::Answer({{"vocabulary", spec.vocabulary}, {"context_max", spec.context_max}, {"head_dim", spec.head_dim},
                   {"layers", spec.layers}, {"kv_heads", spec.kv_heads}, {"name", spec.name}});
  quality::Worker worker(argv[1], std::move(model));
  for (std::string line; std::getline(std::cin, line);) quality::Answer(worker.Run(nlohmann::json::parse(line)));
  return 0;
}
