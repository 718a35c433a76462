// write_family_case FOLDER: writes every tiny model of family_cases.h into FOLDER/NAME, as GGUF and as Hugging Face keeps it. Every second
// one is in two shards, every third says its rotary positions the new way.
#include <cstdio>
#include <map>
#include <string>

#include "tests/fakes/tiny_hugging_face.h"
#include "tests/golden/family_cases.h"

int main(int argc, char** argv) {
  using namespace spherical::testing;
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_family_case FOLDER\n");
    return 2;
  }
  int32_t number = 0;
  for (const FamilyCase& c : kFamilyCases) {
    std::map<std::string, std::string> files =
        TinyHuggingFace(c.options, {.shards = 1 + number % 2, .rope_parameters = number % 3 == 0});
    ++number;
    files["model.gguf"] = TinyModel(c.options).Build();
    WriteFolder(std::string(argv[1]) + "/" + std::string(c.name), files);
    std::printf("%s\n", std::string(c.name).c_str());
  }
  return 0;
}
