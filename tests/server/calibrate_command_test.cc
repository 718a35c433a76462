// sphericalctl calibrate, as a process.
#include <sys/wait.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "engine/model/geometry_file.h"
#include "tests/fakes/tiny_gguf.h"
#include "tests/fakes/tiny_hugging_face.h"

namespace spherical::server {
namespace {

namespace fs = std::filesystem;

struct Done {
  int code;
  std::string output;  // both streams
};

Done Calibrate(const std::string& arguments) {
  FILE* const pipe = popen(("server/ctl/sphericalctl calibrate " + arguments + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  Done done = {.code = -1, .output = ""};
  std::array<char, 4096> some;
  while (const size_t n = std::fread(some.data(), 1, some.size(), pipe)) done.output.append(some.data(), n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) done.code = WEXITSTATUS(status);
  return done;
}

std::string TempFile(const std::string& name) { return std::string(std::getenv("TEST_TMPDIR")) + "/" + name; }

std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string WriteText(const std::string& name, const std::string& text) { return testing::WriteTestFile(name, text); }

// So many tokens of the tiny model: characters that nothing merges.
std::string Text(size_t tokens) {
  std::string text;
  for (size_t i = 0; i < tokens; ++i) text += "0123456789"[i * 7 % 10];
  return text;
}

engine::WantedGeometry Wanted(const std::string& model) {
  return {.shape = {2, 1, 64}, .model = *engine::HashFile(model, std::atomic<bool>(false)), .context = 512};
}

bool Contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("the model's own text: the same file whatever the number of threads, beside the model or where told") {
  const std::string model = testing::WriteTinyModel();
  const Done done = Calibrate("--model " + model);
  INFO(done.output);
  REQUIRE(done.code == 0);
  CHECK(Contains(done.output, "calibrating: 50 %"));
  CHECK(Contains(done.output, model + ".geometry: 2 layers of 1 kv heads, for 512 positions, from 12288 tokens, in "));
  CHECK(engine::ReadGeometry(model + ".geometry", Wanted(model)).ok());
  for (const char* threads : {"1", "3"}) {
    const std::string out = TempFile("out.geometry");
    REQUIRE(Calibrate("--model " + model + " --out " + out + " --threads " + threads).code == 0);
    CHECK(ReadBytes(out) == ReadBytes(model + ".geometry"));
  }
}

TEST_CASE("a folder's geometry is kept beside it") {
  const std::string folder = TempFile("folder");
  testing::WriteFolder(folder, testing::TinyHuggingFace({}));
  const Done done = Calibrate("--model " + folder + "/");
  INFO(done.output);
  REQUIRE(done.code == 0);
  CHECK(Contains(done.output, folder + ".geometry: 2 layers of 1 kv heads, for 512 positions"));
  const std::string paths[] = {folder + "/config.json", folder + "/model.safetensors"};
  engine::WantedGeometry wanted = {.shape = {2, 1, 64}, .model = {}, .context = 512};
  CHECK_FALSE(engine::ReadGeometry(folder + ".geometry", wanted).ok());
  wanted.model = *engine::HashFiles(paths, std::atomic<bool>(false));
  CHECK(engine::ReadGeometry(folder + ".geometry", wanted).ok());
  CHECK(Contains(Calibrate("--if-needed --model " + folder).output, folder + ".geometry: there already"));
  std::ofstream(folder + "/config.json", std::ios::app) << "\n";
  CHECK_FALSE(Contains(Calibrate("--if-needed --model " + folder).output, "there already"));
}

TEST_CASE("given texts: the front of each, and they matter") {
  const std::string model = testing::WriteTinyModel({.context = 1024});
  const std::string out = TempFile("texts.geometry");
  const std::string long_text = WriteText("long.txt", Text(3000)), text = WriteText("text.txt", Text(600));
  const std::string command = "--model " + model + " --out " + out + " --text ";
  CHECK(Contains(Calibrate(command + text).output, "from 600 tokens"));
  const std::string one = ReadBytes(out);
  CHECK(Contains(Calibrate(command + text + " " + long_text).output, "from 1624 tokens"));  // no longer than the context
  CHECK(ReadBytes(out) != one);
  CHECK(Contains(Calibrate(command + text + " --text " + long_text + " --tokens 512").output, "from 1024 tokens"));
  CHECK(Contains(Calibrate(command + text + " --context 100").output, "for 100 positions"));
  const auto read = engine::ReadGeometry(out, {.shape = {2, 1, 64}, .model = Wanted(model).model, .context = 100});
  REQUIRE(read.ok());
  CHECK(read->origin.text == engine::GeometryOrigin::Text::kGiven);
  CHECK(read->origin.tokens == 600);
}

TEST_CASE("a text is cut between characters") {
  const std::string model = testing::WriteTinyModel();
  for (const std::string shift : {"", "a", "ab"}) {
    std::string text = shift;
    while (text.size() < 2'000'000) text += "\xe2\x82\xac";  // the front that is read ends inside one of these, for some shift
    const Done done = Calibrate("--model " + model + " --out " + TempFile("cut.geometry") + " --text " + WriteText("cut.txt", text));
    INFO(done.output);
    CHECK(done.code == 0);
  }
}

TEST_CASE("wrong use is told with what was expected, and leaves no file") {
  const std::string model = testing::WriteTinyModel({}, "wrong.gguf");
  const std::string given = "--model " + model + " ";
  struct Case {
    std::string arguments;
    int code;
    std::string says;
  };
  const Case cases[] = {
      {"", 2, "--model is required"},
      {"--model /nowhere.gguf", 2, "/nowhere.gguf"},
      {"--model " + WriteText("no.gguf", "nonsense that is no model"), 2, "no.gguf"},
      {given + "--text /nowhere.txt", 2, "/nowhere.txt: cannot be opened"},
      {given + "--text " + WriteText("empty.txt", ""), 2, "empty.txt: 0 tokens; calibration needs at least 512"},
      {given + "--text " + WriteText("short.txt", Text(37)), 2, "short.txt: 37 tokens; calibration needs at least 512"},
      {given + "--text " + WriteText("good.txt", Text(600)) + " " + WriteText("less.txt", Text(511)), 2, "less.txt: 511 tokens"},
      {given + "--text " + WriteText("latin.txt", Text(600) + "\xe9t\xe9"), 2, "latin.txt: text is not valid UTF-8 at byte 600"},
      {given + "--text", 2, "--text"},
      {given + "--tokens 511", 2, "--tokens"},
      {given + "--tokens many", 2, "--tokens"},
      {given + "--context 513", 2, "--context: 513 is more than the 512 positions"},
      {given + "--threads -1", 2, "--threads"},
      {given + "--no-such-flag", 2, "--no-such-flag"},
      {given + "--out /nowhere/g", 1, "/nowhere/g: cannot be written: No such file or directory"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.arguments);
    const Done done = Calibrate(c.arguments);
    INFO(done.output);
    CHECK(done.code == c.code);
    CHECK(Contains(done.output, c.says));
    CHECK_FALSE(fs::exists(model + ".geometry"));
  }
}

TEST_CASE("help says what the flags are") {
  const Done done = Calibrate("--help");
  CHECK(done.code == 0);
  for (const char* flag : {"--model", "--text", "--tokens", "--context", "--out", "--threads"}) CHECK(Contains(done.output, flag));
}

}  // namespace
}  // namespace spherical::server
