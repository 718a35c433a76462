// What tokens become on their way out: text, stop strings, scores.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/engine/engine_room.h"

namespace spherical::engine {
namespace {

TEST_CASE("end of sequence is counted but is not text, and can be ignored") {
  EngineRoom room;
  Submission request = Ask("p", 5);
  request.ignore_eos = GENERATE(false, true);
  Client client = room.Send(request);
  room.stepper.script[client.id()] = {'o', 'k', ByteTokenizer::kEnd, '!', '!'};
  room.TickUntilStill();
  client.Read();
  if (request.ignore_eos) {
    CHECK(client.text == "ok!!");
    CHECK(client.reason() == FinishReason::kLength);
    CHECK(client.finished->usage.completion_tokens == 5);
  } else {
    CHECK(client.text == "ok");
    CHECK(client.reason() == FinishReason::kStop);
    CHECK(client.finished->stop_string.empty());
    CHECK(client.finished->usage.completion_tokens == 3);
    CHECK(client.tokens.back().id == ByteTokenizer::kEnd);
  }
}

TEST_CASE("a stop string ends the text before it, across token borders") {
  EngineRoom room;
  Submission request = Ask("p", 50);
  request.stop = {"END", "EN!"};
  Client client = room.Send(request);
  const std::string said = "EEN ENENDED";
  for (const char c : said) room.stepper.script[client.id()].push_back(c);
  room.Tick();
  client.Read();
  CHECK(client.text.empty());  // "E" may be the beginning of a stop string
  CHECK(client.tokens.size() == 1);
  room.TickUntilStill();
  client.Read();
  CHECK(client.text == "EEN EN");
  CHECK(client.reason() == FinishReason::kStop);
  CHECK(client.finished->stop_string == "END");
  CHECK(client.tokens.size() == 9);
}

TEST_CASE("text held back for a stop string leaves with Finished when it was none") {
  EngineRoom room;
  Submission request = Ask("p", 3);
  request.stop = {"abcd"};
  Client client = room.Send(request);
  room.stepper.script[client.id()] = {'a', 'b', 'c'};
  room.TickUntilStill();
  client.Read(3);
  CHECK(client.text.empty());
  client.Read();
  CHECK(client.finished->text == "abc");
  CHECK(client.reason() == FinishReason::kLength);
}

TEST_CASE("a stop string met by the last token allowed is a stop") {
  EngineRoom room;
  Submission request = Ask("p", 2);
  request.stop = {"no"};
  Client client = room.Send(request);
  room.stepper.script[client.id()] = {'n', 'o'};
  room.TickUntilStill();
  client.Read();
  CHECK(client.text.empty());
  CHECK(client.reason() == FinishReason::kStop);
}

TEST_CASE("an unfinished character waits, and is replaced at the end") {
  EngineRoom room;
  Client client = room.Send(Ask("p", 3));
  room.stepper.script[client.id()] = {0xC3, 0xA9, 0xC3};
  room.Tick();
  client.Read();
  CHECK(client.text.empty());
  room.Tick();
  client.Read();
  CHECK(client.text == "\xC3\xA9");
  room.TickUntilStill();
  client.Read();
  CHECK(client.text == "\xC3\xA9\xEF\xBF\xBD");
}

TEST_CASE("prompt scores come once, before the tokens, however the prompt is cut") {
  EngineRoom room(128, OptionChanges{.target_step = absl::Milliseconds(GENERATE(1, 1'000'000))});
  room.stepper.per_row = absl::Milliseconds(1);
  Submission request = Ask(std::string(600, 'p'), 3);
  for (size_t i = 0; i < request.prompt.size(); ++i) request.prompt[i] = 'a' + static_cast<TokenId>(i % 26);
  request.prompt_logprobs = 2;
  request.logprobs = 4;
  Client client = room.Send(request, /*capacity=*/2);
  for (int32_t i = 0; i < 10; ++i) {
    room.TickUntilStill();
    client.Read();
  }
  REQUIRE(client.scores);
  CHECK(client.events_out_of_order == 0);
  REQUIRE(client.scores->size() == request.prompt.size() - 1);
  for (size_t i = 0; i + 1 < request.prompt.size(); ++i) {
    const SampledToken& score = client.scores->at(i);
    REQUIRE(score.id == request.prompt[i + 1]);
    REQUIRE(score.logprob == FakeStepper::ScoreOf(std::span(request.prompt).first(i + 1), score.id));
    REQUIRE(score.top.size() == 2);
  }
  REQUIRE(client.tokens.size() == 3);
  CHECK(client.tokens[2].top.size() == 4);
}

TEST_CASE("prompt scores of a prompt of one token are none, and are said") {
  EngineRoom room;
  Submission request = Ask("p", 1);
  request.prompt_logprobs = 0;
  Client client = room.Send(request);
  room.TickUntilStill();
  client.Read();
  REQUIRE(client.scores);
  CHECK(client.scores->empty());
}

}  // namespace
}  // namespace spherical::engine
