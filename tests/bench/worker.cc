#include "tests/bench/worker.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

namespace spherical::bench {
namespace {

double Seconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

void Answer(const std::string& json) {
  std::printf("%s\n", json.c_str());
  std::fflush(stdout);
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) Fail("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A line such as "VmRSS:   12345 kB" of /proc/self/status, in bytes.
int64_t StatusBytes(const std::string& key) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key + ":")) return std::atoll(line.c_str() + key.size() + 1) * 1024;
  }
  return 0;
}

class CommandLoop {
 public:
  explicit CommandLoop(BenchSide& side) : side_(side) {}

  void Run(const std::string& line) {
    std::istringstream in(line);
    std::string command;
    in >> command;
    if (command == "text") return Text(in);
    if (command == "save_tokens") return SaveTokens(in);
    if (command == "load_tokens") return LoadTokens(in);
    if (command == "logits") return Logits(in);
    if (command == "prefill") return Prefill(in);
    if (command == "prepare") return Prepare(in);
    if (command == "decode") return Decode(in);
    if (command == "memory") {
      return Answer("{\"resident_bytes\": " + std::to_string(StatusBytes("VmRSS")) +
                    ", \"peak_bytes\": " + std::to_string(StatusBytes("VmHWM")) + "}");
    }
    Fail("unknown command: " + line);
  }

 private:
  void Text(std::istream& in) {
    std::string path;
    in >> path;
    tokens_ = side_.Tokenize(ReadFile(path));
    Answer("{\"tokens\": " + std::to_string(tokens_.size()) + "}");
  }

  void SaveTokens(std::istream& in) {
    std::string path;
    in >> path;
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(tokens_.data()),
                                                static_cast<std::streamsize>(tokens_.size() * sizeof(int32_t)));
    Answer("{}");
  }

  void LoadTokens(std::istream& in) {
    std::string path;
    in >> path;
    const std::string bytes = ReadFile(path);
    tokens_.resize(bytes.size() / sizeof(int32_t));
    bytes.copy(reinterpret_cast<char*>(tokens_.data()), tokens_.size() * sizeof(int32_t));
    Answer("{\"tokens\": " + std::to_string(tokens_.size()) + "}");
  }

  void Logits(std::istream& in) {
    int64_t positions = 0, window = 0;
    std::string path;
    in >> positions >> window >> path;
    sequences_ = 0;
    std::ofstream out(path, std::ios::binary);
    for (int64_t at = 0; at < positions; at += window) {
      side_.Logits(Tokens(at, std::min(window, positions - at)), [&](std::span<const float> row) {
        out.write(reinterpret_cast<const char*>(row.data()), static_cast<std::streamsize>(row.size_bytes()));
      });
    }
    if (!out.flush()) Fail("cannot write " + path);
    Answer("{}");
  }

  void Prefill(std::istream& in) {
    int64_t count = 0;
    in >> count;
    sequences_ = 0;  // the side forgets them
    const std::span<const int32_t> prompt = Tokens(0, count);
    Timed([&] { side_.Prefill(prompt); });
  }

  // Sequence i starts 37 tokens after sequence i - 1, so that no two are alike.
  void Prepare(std::istream& in) {
    in >> sequences_ >> depth_;
    std::vector<std::span<const int32_t>> prompts;
    for (int64_t i = 0; i < sequences_; ++i) prompts.push_back(Tokens(37 * i, depth_));
    side_.Prepare(prompts);
    Answer("{}");
  }

  void Decode(std::istream& in) {
    int64_t steps = 0;
    in >> steps;
    if (sequences_ == 0) Fail("decode: nothing is prepared");
    Step(0);
    Timed([&] {
      for (int64_t i = 1; i <= steps; ++i) Step(i);
    });
    side_.Rewind();
  }

  void Step(int64_t i) {
    std::vector<int32_t> next;
    for (int64_t s = 0; s < sequences_; ++s) next.push_back(Tokens(37 * s + depth_ + i, 1)[0]);
    side_.Step(next);
  }

  void Timed(const std::function<void()>& work) {
    const double wall = WallSeconds(), cpu = ProcessSeconds();
    work();
    char json[96];
    std::snprintf(json, sizeof(json), "{\"wall_s\": %.9f, \"cpu_s\": %.9f}", WallSeconds() - wall, ProcessSeconds() - cpu);
    Answer(json);
  }

  std::span<const int32_t> Tokens(int64_t at, int64_t count) const {
    if (at + count > static_cast<int64_t>(tokens_.size())) {
      Fail("the text has " + std::to_string(tokens_.size()) + " tokens, " + std::to_string(at + count) + " are needed: give a longer one");
    }
    return std::span(tokens_).subspan(at, count);
  }

  BenchSide& side_;
  std::vector<int32_t> tokens_;
  int64_t sequences_ = 0, depth_ = 0;
};

}  // namespace

double WallSeconds() { return Seconds(CLOCK_MONOTONIC); }
double ProcessSeconds() { return Seconds(CLOCK_PROCESS_CPUTIME_ID); }

void Fail(const std::string& message) {
  std::string quoted;
  for (const char c : message) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c == '\n' ? ' ' : c;
  }
  Answer("{\"error\": \"" + quoted + "\"}");
  std::exit(1);
}

int Serve(BenchSide& side, double load_seconds) {
  char json[64];
  std::snprintf(json, sizeof(json), "{\"load_s\": %.6f}", load_seconds);
  Answer(json);
  CommandLoop loop(side);
  for (std::string line; std::getline(std::cin, line);) loop.Run(line);
  return 0;
}

}  // namespace spherical::bench
