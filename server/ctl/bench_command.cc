// A load generator: so many requests, so many at a time, every one as long as asked.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/mutex.h"
#include "server/ctl/commands.h"
#include "server/ctl/generation.h"

namespace spherical::ctl {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  int32_t concurrency = 4;
  int32_t requests = 32;
  int32_t prompt_tokens = 128;
  int32_t output_tokens = 64;
  uint64_t seed = 1;
  float temperature = 0, top_p = 1;
  CallFlags call;
  bool json = false;
};

// What all requests together showed.
struct Measured {
  std::vector<double> ttft_ms, gap_ms;  // gap: between one token and the next of a request
  int64_t finished = 0, prompt_tokens = 0, output_tokens = 0;
  std::map<std::string, int64_t> errors;  // by code
  std::string last_error;
  double seconds = 0;

  double PerSecond(int64_t count) const { return static_cast<double>(count) / seconds; }
};

// The value that this share of the numbers does not exceed.
double Percentile(std::vector<double> numbers, double share) {
  if (numbers.empty()) return 0;
  const auto at = static_cast<ptrdiff_t>(std::ceil(share * static_cast<double>(numbers.size()))) - 1;
  std::nth_element(numbers.begin(), numbers.begin() + at, numbers.end());
  return numbers[static_cast<size_t>(at)];
}

// A prompt of its own for each request, so that nothing can be reused between them; the same again for the same seed.
v1::GenerateRequest RequestNumber(int64_t number, const Flags& flags, int32_t vocabulary) {
  v1::GenerateRequest request;
  uint64_t state = flags.seed * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(number);
  for (int32_t i = 0; i < flags.prompt_tokens; ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    request.mutable_token_ids()->add_ids(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocabulary)));
  }
  request.set_max_tokens(flags.output_tokens);
  request.set_ignore_eos(true);
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(flags.temperature);
  sampling.set_top_p(flags.top_p);
  sampling.set_seed(state);
  return request;
}

void Add(const Generation& generation, Measured& all) {
  if (!generation.status.ok()) {
    const std::string code = CodeName(generation.status.error_code());
    ++all.errors[code];
    all.last_error = code + ": " + generation.status.error_message();
    return;
  }
  ++all.finished;
  all.prompt_tokens += generation.finished.usage().prompt_tokens();
  all.output_tokens += generation.finished.usage().completion_tokens();
  all.ttft_ms.push_back(generation.ttft_ms());
  for (size_t i = 1; i < generation.arrivals.size(); ++i) {
    all.gap_ms.push_back(absl::ToDoubleMilliseconds(generation.arrivals[i] - generation.arrivals[i - 1]));
  }
}

Measured Load(const Flags& flags, int32_t vocabulary, Client& client) {
  Measured all;
  engine::Mutex mutex;
  std::atomic<int64_t> next{0};
  const absl::Time start = absl::Now();
  std::vector<std::thread> threads;
  for (int32_t i = 0; i < flags.concurrency; ++i) {
    threads.emplace_back([&] {
      for (int64_t number = next++; number < flags.requests; number = next++) {
        const Generation generation =
            Generate(client, RequestNumber(number, flags, vocabulary), flags.call, [](const std::string&) {});
        if (generation.status.error_code() == grpc::StatusCode::CANCELLED) next = flags.requests;  // Ctrl-C: no more
        engine::MutexLock lock(mutex);
        Add(generation, all);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  all.seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return all;
}

Json Quantiles(const std::vector<double>& numbers) {
  return {{"p50", Percentile(numbers, 0.5)}, {"p90", Percentile(numbers, 0.9)}, {"p99", Percentile(numbers, 0.99)}};
}

void PrintTable(const Measured& all) {
  const auto line = [](const char* what, const std::vector<double>& ms) {
    absl::PrintF("%-20s p50 %9.1f   p90 %9.1f   p99 %9.1f ms\n", what, Percentile(ms, 0.5), Percentile(ms, 0.9), Percentile(ms, 0.99));
  };
  absl::PrintF("%d requests in %.2f s: %.2f requests/s, %.1f prompt + %.1f output tokens/s\n", all.finished, all.seconds,
               all.PerSecond(all.finished), all.PerSecond(all.prompt_tokens), all.PerSecond(all.output_tokens));
  line("time to first token", all.ttft_ms);
  line("between tokens", all.gap_ms);
  for (const auto& [code, count] : all.errors) absl::PrintF("%d x %s\n", count, code);
}

Json ToJson(const Measured& all, const Flags& flags) {
  return {{"concurrency", flags.concurrency},
          {"prompt_tokens_each", flags.prompt_tokens},
          {"output_tokens_each", flags.output_tokens},
          {"finished", all.finished},
          {"seconds", all.seconds},
          {"requests_per_s", all.PerSecond(all.finished)},
          {"prompt_tokens_per_s", all.PerSecond(all.prompt_tokens)},
          {"output_tokens_per_s", all.PerSecond(all.output_tokens)},
          {"ttft_ms", Quantiles(all.ttft_ms)},
          {"between_tokens_ms", Quantiles(all.gap_ms)},
          {"errors", all.errors}};
}

int Run(const Flags& flags, Client& client) {
  v1::ModelInfo info;
  {
    Call call;
    const grpc::Status status = client.inference().GetModelInfo(call.context(), {}, &info);
    if (!status.ok()) return Report(status);
  }
  const Measured all = Load(flags, info.vocabulary(), client);
  if (flags.json) {
    std::puts(ToJson(all, flags).dump().c_str());
  } else {
    PrintTable(all);
  }
  if (all.errors.empty()) return kDone;
  absl::FPrintF(stderr, "sphericalctl: the last error: %s\n", all.last_error);
  return kServerSaidNo;
}

}  // namespace

Command AddBench(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  const CLI::Range many(1, 1'000'000);
  app.add_option("--concurrency", flags->concurrency, "requests at a time")->capture_default_str()->check(CLI::Range(1, 1024));
  app.add_option("--requests", flags->requests, "requests in all")->capture_default_str()->check(many);
  app.add_option("--prompt-tokens", flags->prompt_tokens, "length of each prompt")->capture_default_str()->check(many);
  app.add_option("--output-tokens", flags->output_tokens, "length of each answer")->capture_default_str()->check(many);
  app.add_option("--temperature", flags->temperature, "0 is greedy")->capture_default_str();
  app.add_option("--top-p", flags->top_p, "draw among the likeliest that make up this share")->capture_default_str();
  app.add_option("--tenant", flags->call.tenant, "on whose quota; a server that does not trust metadata takes no notice");
  app.add_option("--seed", flags->seed, "of the prompts, and of what is drawn")->capture_default_str();
  app.add_flag("--json", flags->json, "one JSON object");
  return [flags](Client& client) { return Run(*flags, client); };
}

}  // namespace spherical::ctl
