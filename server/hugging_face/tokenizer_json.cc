#include "server/hugging_face/tokenizer_json.h"

#include <algorithm>
#include <initializer_list>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/hugging_face/tokenizer_document.h"
#include "server/json_text.h"

namespace spherical::server {
namespace {

using engine::PieceKind;
using engine::TextStep;
using engine::TokenId;
using engine::TokenizerKind;
using engine::WordPattern;
using Json = nlohmann::json;

// The regular expressions of the families, letter by letter: another one, however similar, cuts other words.
#define CL100K(digits)                                                                                                             \
  R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)" digits R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
struct Expression {
  absl::string_view family;
  absl::string_view text;
  WordPattern pattern;
};
constexpr Expression kExpressions[] = {
    {"GPT-2", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", WordPattern::kGpt2},
    {"Llama 3", CL100K(R"(\p{N}{1,3})"), WordPattern::kLlama3},
    {"Qwen 2", CL100K(R"(\p{N})"), WordPattern::kQwen2},
    {"Mistral Nemo",
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)"
     R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
     WordPattern::kTekken},
};
#undef CL100K

// A value of the document and where it stands.
class Node {
 public:
  Node(const Json& value, std::string pointer, const std::string& file) : value_(&value), pointer_(std::move(pointer)), file_(&file) {}

  const Json& value() const { return *value_; }
  // Not there and null are the same.
  bool Has(const char* key) const { return value_->is_object() && value_->contains(key) && !(*value_)[key].is_null(); }
  Node operator[](const char* key) const {
    static const Json kNull;
    return {Has(key) ? (*value_)[key] : kNull, absl::StrCat(pointer_, "/", key), *file_};
  }
  Node operator[](size_t i) const { return {(*value_)[i], absl::StrCat(pointer_, "/", i), *file_}; }
  size_t size() const { return value_->is_array() ? value_->size() : 0; }

  absl::Status Bad(absl::string_view what) const { return absl::InvalidArgumentError(absl::StrCat(*file_, ": ", pointer_, ": ", what)); }
  absl::Status Expected(absl::string_view what) const { return Bad(absl::StrCat(Shown(*value_), "; expected ", what)); }
  absl::Status Unsupported(absl::string_view supported) const {
    return absl::UnimplementedError(
        absl::StrCat(*file_, ": ", pointer_, ": ", Shown(*value_), " is not supported, supported is ", supported));
  }

  absl::StatusOr<std::string> Text() const {
    if (!value_->is_string()) return Expected("a string");
    return value_->get<std::string>();
  }
  absl::StatusOr<bool> Flag(bool unless) const {
    if (value_->is_null()) return unless;
    if (!value_->is_boolean()) return Expected("a boolean");
    return value_->get<bool>();
  }
  absl::StatusOr<int64_t> Integer() const {
    if (!value_->is_number_integer()) return Expected("an integer");
    return value_->get<int64_t>();
  }
  // The members of a Sequence, or the node itself.
  absl::StatusOr<std::vector<Node>> Members(const char* key) const {
    if (value_->is_null()) return std::vector<Node>();
    const absl::StatusOr<std::string> type = (*this)["type"].Text();
    if (!type.ok()) return type.status();
    if (*type != "Sequence") return std::vector<Node>{*this};
    const Node list = (*this)[key];
    if (!list.value().is_array()) return list.Expected("an array");
    std::vector<Node> members;
    for (size_t i = 0; i < list.size(); ++i) members.push_back(list[i]);
    return members;
  }

 private:
  const Json* value_;
  std::string pointer_;
  const std::string* file_;
};

// The flag must be what it is when it changes nothing.
absl::Status RequireFlag(const Node& component, const char* key, bool unless, bool wanted) {
  const absl::StatusOr<bool> flag = component[key].Flag(unless);
  if (!flag.ok()) return flag.status();
  return *flag == wanted ? absl::OkStatus() : component[key].Unsupported(wanted ? "true" : "false");
}

class Reader {
 public:
  Reader(TokenizerDocument document, const std::string& file)
      : document_(std::move(document)), root_(document_.root, "", file), file_(file) {}

  absl::StatusOr<engine::TokenizerParts> Read() {
    parts_.file = file_;
    for (const auto step : {&Reader::Model, &Reader::Normalizer, &Reader::PreTokenizer, &Reader::Vocabulary, &Reader::Decoder,
                            &Reader::PostProcessor}) {
      if (absl::Status status = (this->*step)(); !status.ok()) return status;
    }
    return std::move(parts_);
  }

 private:
  absl::Status Normalizer();
  absl::Status PreTokenizer();
  absl::Status Model();
  absl::Status Vocabulary();
  absl::Status Decoder();
  absl::Status PostProcessor();

  absl::Status AddNormalizer(const Node& node);
  absl::Status AddPreTokenizer(const Node& node);
  absl::Status AddSplit(const Node& node);
  absl::Status AddMetaspace(const Node& node);
  absl::Status AddToken(const Node& token, std::vector<bool>& taken);
  void Place(std::string piece, int64_t id, PieceKind kind);
  absl::Status ReadTemplate(const Node& node);
  absl::StatusOr<std::string> Replaced(const Node& node, const char* key) const;
  bool spaced() const;

  TokenizerDocument document_;
  Node root_;
  const std::string& file_;
  engine::TokenizerParts parts_;
  bool byte_level_ = false;
  bool metaspace_ = false;
  bool byte_fallback_ = false;
  std::string unknown_;
};

absl::Status Reader::Normalizer() {
  const auto members = root_["normalizer"].Members("normalizers");
  if (!members.ok()) return members.status();
  for (const Node& node : *members) {
    if (absl::Status status = AddNormalizer(node); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// What a Replace or Split looks for: a plain string.
absl::StatusOr<std::string> Reader::Replaced(const Node& node, const char* key) const {
  const Node pattern = node["pattern"];
  if (!pattern.Has(key)) return pattern.Unsupported(absl::StrCat("an object with \"", key, "\""));
  return pattern[key].Text();
}

absl::Status Reader::AddNormalizer(const Node& node) {
  const auto type = node["type"].Text();
  if (!type.ok()) return type.status();
  if (*type == "NFC") {
    parts_.normalizer.push_back({TextStep::Kind::kNfc});
  } else if (*type == "Prepend") {
    const auto text = node["prepend"].Text();
    if (!text.ok()) return text.status();
    if (*text != engine::kSpaceMark) return node["prepend"].Unsupported("\"\u2581\"");
    parts_.normalizer.push_back({TextStep::Kind::kPrepend, "", *text});
  } else if (*type == "Replace") {
    auto from = Replaced(node, "String");
    if (!from.ok()) return from.status();
    auto to = node["content"].Text();
    if (!to.ok()) return to.status();
    if (*from != " " || *to != engine::kSpaceMark) return node.Unsupported("a Replace of \" \" by \"\u2581\"");
    parts_.normalizer.push_back({TextStep::Kind::kReplace, *std::move(from), *std::move(to)});
  } else {
    return node["type"].Unsupported("NFC, Prepend, Replace, Sequence");
  }
  return absl::OkStatus();
}

absl::Status Reader::PreTokenizer() {
  const auto members = root_["pre_tokenizer"].Members("pretokenizers");
  if (!members.ok()) return members.status();
  for (const Node& node : *members) {
    if (byte_level_) return node.Unsupported("nothing after a ByteLevel");
    if (absl::Status status = AddPreTokenizer(node); !status.ok()) return status;
  }
  parts_.kind = byte_level_ ? TokenizerKind::kByteLevel : TokenizerKind::kSentencePiece;
  const auto marks = [](const TextStep& step) { return step.kind == TextStep::Kind::kReplace; };
  const bool marked = std::any_of(parts_.normalizer.begin(), parts_.normalizer.end(), marks);
  if (byte_level_ == marked || (!byte_level_ && !parts_.words.empty())) {
    return root_["pre_tokenizer"].Unsupported(
        "ByteLevel, perhaps after Split and Digits, or, where spaces become \"\u2581\", Metaspace or none");
  }
  return absl::OkStatus();
}

absl::Status Reader::AddPreTokenizer(const Node& node) {
  const auto type = node["type"].Text();
  if (!type.ok()) return type.status();
  if (*type == "ByteLevel") {
    byte_level_ = true;
    if (absl::Status status = RequireFlag(node, "add_prefix_space", true, false); !status.ok()) return status;
    const auto cuts = node["use_regex"].Flag(true);
    if (!cuts.ok()) return cuts.status();
    if (*cuts) parts_.words.push_back(WordPattern::kGpt2);
    return absl::OkStatus();
  }
  if (*type == "Digits") {
    parts_.words.push_back(WordPattern::kDigit);
    return RequireFlag(node, "individual_digits", false, true);
  }
  if (*type == "Split") return AddSplit(node);
  if (*type == "Metaspace") return AddMetaspace(node);
  return node["type"].Unsupported("ByteLevel, Digits, Metaspace, Sequence, Split");
}

absl::Status Reader::AddSplit(const Node& node) {
  if (absl::Status status = RequireFlag(node, "invert", false, false); !status.ok()) return status;
  const auto behavior = node["behavior"].Text();
  if (!behavior.ok()) return behavior.status();
  if (node["pattern"].Has("String")) {
    // Gemma's, which finds nothing: all spaces are marks by now.
    const auto text = node["pattern"]["String"].Text();
    if (!text.ok()) return text.status();
    const TextStep marks{TextStep::Kind::kReplace, " ", std::string(engine::kSpaceMark)};
    const bool nothing = std::find(parts_.normalizer.begin(), parts_.normalizer.end(), marks) != parts_.normalizer.end();
    if (*text == " " && *behavior == "MergedWithPrevious" && nothing) return absl::OkStatus();
    return node.Unsupported("a Split by a known regular expression, or by a space after spaces became \"\u2581\"");
  }
  if (*behavior != "Isolated") return node["behavior"].Unsupported("\"Isolated\"");
  const auto text = Replaced(node, "Regex");
  if (!text.ok()) return text.status();
  std::vector<absl::string_view> families;
  for (const Expression& expression : kExpressions) {
    families.push_back(expression.family);
    if (expression.text != *text) continue;
    parts_.words.push_back(expression.pattern);
    return absl::OkStatus();
  }
  return node["pattern"]["Regex"].Unsupported(absl::StrCat("the expressions of ", absl::StrJoin(families, ", ")));
}

absl::Status Reader::AddMetaspace(const Node& node) {
  const auto mark = node["replacement"].Text();
  if (!mark.ok()) return mark.status();
  if (*mark != engine::kSpaceMark) return node["replacement"].Unsupported("\"\u2581\"");
  if (!parts_.normalizer.empty() || metaspace_) return node.Unsupported("one Metaspace and no normalizer");
  if (absl::Status status = RequireFlag(node, "split", true, false); !status.ok()) return status;
  metaspace_ = true;
  parts_.normalizer.push_back({TextStep::Kind::kReplace, " ", *mark});
  std::string scheme = "always";
  if (node.Has("prepend_scheme")) {
    const auto given = node["prepend_scheme"].Text();
    if (!given.ok()) return given.status();
    scheme = *given;
  }
  if (scheme == "never") return absl::OkStatus();
  if (scheme != "first" && scheme != "always") return node["prepend_scheme"].Unsupported("\"always\", \"first\", \"never\"");
  parts_.normalizer.push_back({scheme == "first" ? TextStep::Kind::kPrependFirst : TextStep::Kind::kPrependMissing, "", *mark});
  return absl::OkStatus();
}

absl::Status Reader::Model() {
  const Node model = root_["model"];
  if (!model.value().is_object()) return model.Expected("an object");
  if (model.Has("type") && model["type"].value() != "BPE") return model["type"].Unsupported("\"BPE\"");
  if (model.Has("dropout") && model["dropout"].value() != 0) return model["dropout"].Unsupported("none");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (model.Has(key) && model[key].value() != "") return model[key].Unsupported("none");
  }
  const auto fallback = model["byte_fallback"].Flag(false);
  if (!fallback.ok()) return fallback.status();
  byte_fallback_ = *fallback;
  const auto fuse = model["fuse_unk"].Flag(false);
  if (!fuse.ok()) return fuse.status();
  parts_.fuse_unknown = *fuse;
  const auto whole = model["ignore_merges"].Flag(false);
  if (!whole.ok()) return whole.status();
  parts_.whole_words_first = *whole;
  if (model.Has("unk_token")) {
    const auto unknown = model["unk_token"].Text();
    if (!unknown.ok()) return unknown.status();
    unknown_ = *unknown;
  }
  parts_.merges = std::move(document_.merges);
  return absl::OkStatus();
}

// Puts a piece where its id says. The same piece may come twice: in the vocabulary and among the added tokens.
void Reader::Place(std::string piece, int64_t id, PieceKind kind) {
  const auto at = static_cast<size_t>(id);
  if (at >= parts_.pieces.size()) {
    parts_.pieces.resize(at + 1);
    parts_.kinds.resize(at + 1, PieceKind::kUnused);
  }
  parts_.pieces[at] = std::move(piece);
  parts_.kinds[at] = kind;
}

bool NamesByte(absl::string_view piece) {
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return piece.size() == 6 && piece.substr(0, 3) == "<0x" && is_digit(piece[3]) && is_digit(piece[4]) && piece[5] == '>';
}

absl::Status Reader::Vocabulary() {
  const auto bad = [&](const auto&... what) { return absl::InvalidArgumentError(absl::StrCat(file_, ": ", what...)); };
  const size_t count = document_.vocabulary.size();
  if (count == 0 || count > engine::kVocabularyMax) {
    return bad("/model/vocab: ", count, " tokens; expected 1 to ", engine::kVocabularyMax);
  }
  std::vector<bool> taken;
  for (auto& [piece, id] : document_.vocabulary) {
    const Json key = piece;
    if (id < 0 || id >= static_cast<int64_t>(engine::kVocabularyMax)) {
      return bad("/model/vocab: ", Shown(key), " has id ", id, "; expected 0 to ", engine::kVocabularyMax - 1);
    }
    if (static_cast<size_t>(id) >= taken.size()) taken.resize(static_cast<size_t>(id) + 1);
    if (taken[id]) return bad("/model/vocab: ", Shown(key), " has id ", id, ", which is given twice");
    taken[id] = true;
    if (piece.empty()) return bad("/model/vocab: id ", id, " is empty");
    const PieceKind kind = byte_fallback_ && NamesByte(piece) ? PieceKind::kByte : PieceKind::kNormal;
    Place(std::move(piece), id, kind);
  }
  document_.vocabulary = {};
  const Node added = root_["added_tokens"];
  if (!added.value().is_null() && !added.value().is_array()) return added.Expected("an array");
  for (size_t i = 0; i < added.size(); ++i) {
    if (absl::Status status = AddToken(added[i], taken); !status.ok()) return status;
  }
  const auto hole = std::find(taken.begin(), taken.end(), false);
  if (hole != taken.end()) return bad("no token has id ", hole - taken.begin(), "; expected each from 0 to ", taken.size() - 1);

  if (unknown_.empty()) return absl::OkStatus();
  const auto unknown = std::find(parts_.pieces.begin(), parts_.pieces.end(), unknown_);
  if (unknown == parts_.pieces.end()) return root_["model"]["unk_token"].Expected("the name of a token");
  parts_.unknown = static_cast<TokenId>(unknown - parts_.pieces.begin());
  parts_.kinds[parts_.unknown] = PieceKind::kUnknown;
  return absl::OkStatus();
}

absl::Status Reader::AddToken(const Node& token, std::vector<bool>& taken) {
  const auto content = token["content"].Text();
  if (!content.ok()) return content.status();
  if (content->empty()) return token["content"].Expected("text");
  const auto id = token["id"].Integer();
  if (!id.ok()) return id.status();
  if (*id < 0 || *id >= static_cast<int64_t>(engine::kVocabularyMax)) {
    return token["id"].Expected(absl::StrCat("0 to ", engine::kVocabularyMax - 1));
  }
  for (const char* key : {"single_word", "lstrip", "rstrip"}) {
    if (absl::Status status = RequireFlag(token, key, false, false); !status.ok()) return status;
  }
  const auto special = token["special"].Flag(false);
  if (!special.ok()) return special.status();
  const auto normalized = token["normalized"].Flag(!*special);
  if (!normalized.ok()) return normalized.status();
  // It is found in normalised text, by its normalised name. One that stays the same is found as well in the text as it is; control tokens
  // are meant so.
  const engine::TextStep* const steps = parts_.normalizer.data();
  if (*normalized && !*special && engine::TakeSteps({steps, parts_.normalizer.size()}, *content, true) != *content) {
    return token["normalized"].Unsupported("false, or text that the normalizer leaves as it is");
  }
  const auto at = static_cast<size_t>(*id);
  if (at < taken.size() && taken[at] && parts_.pieces[at] != *content) {
    return token["id"].Bad(absl::StrCat(*id, " is that of ", Shown(Json(parts_.pieces[at])), ", not of ", Shown(Json(*content))));
  }
  if (at >= taken.size()) taken.resize(at + 1);
  taken[at] = true;
  Place(*content, *id, *special ? PieceKind::kControl : PieceKind::kUserDefined);
  return absl::OkStatus();
}

bool Reader::spaced() const {
  return std::any_of(parts_.normalizer.begin(), parts_.normalizer.end(), [](const TextStep& step) {
    return step.kind != TextStep::Kind::kReplace && step.kind != TextStep::Kind::kNfc;
  });
}

// Only checked: what the kinds of vocabulary need is what the engine does.
absl::Status Reader::Decoder() {
  const Node decoder = root_["decoder"];
  const auto members = decoder.Members("decoders");
  if (!members.ok()) return members.status();
  std::vector<std::string> types;
  for (const Node& node : *members) {
    const auto type = node["type"].Text();
    if (!type.ok()) return type.status();
    types.push_back(*type);
    if (*type == "Replace") {
      const auto from = Replaced(node, "String");
      if (!from.ok()) return from.status();
      if (*from != engine::kSpaceMark || node["content"].value() != " ") return node.Unsupported("a Replace of \"\u2581\" by \" \"");
    } else if (*type == "Strip") {
      if (node["content"].value() != " " || node["start"].value() != 1 || node["stop"].value() != 0) {
        return node.Unsupported("a Strip of one \" \" at the start");
      }
    }
  }
  using Types = std::vector<std::string>;
  if (byte_level_) return types == Types{"ByteLevel"} ? absl::OkStatus() : decoder.Unsupported("ByteLevel");
  if (metaspace_ && !byte_fallback_ && types == Types{"Metaspace"}) return absl::OkStatus();
  Types wanted = {"Replace", "ByteFallback", "Fuse"};
  if (spaced()) wanted.push_back("Strip");
  return types == wanted ? absl::OkStatus() : decoder.Unsupported(absl::StrCat("a Sequence of ", absl::StrJoin(wanted, ", ")));
}

absl::Status Reader::PostProcessor() {
  const auto members = root_["post_processor"].Members("processors");
  if (!members.ok()) return members.status();
  for (const Node& node : *members) {
    const auto type = node["type"].Text();
    if (!type.ok()) return type.status();
    if (*type == "ByteLevel") continue;  // about offsets
    if (*type != "TemplateProcessing") return node["type"].Unsupported("ByteLevel, Sequence, TemplateProcessing");
    if (absl::Status status = ReadTemplate(node); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// Which tokens stand around a text: at most one, before it.
absl::Status Reader::ReadTemplate(const Node& node) {
  const Node single = node["single"];
  if (single.size() == 0) return single.Expected("an array");
  const bool before = single.size() == 2 && single[size_t{0}].Has("SpecialToken");
  if (!single[single.size() - 1].Has("Sequence") || (single.size() != 1 && !before)) {
    return single.Unsupported("the text, perhaps after one special token");
  }
  if (!before) return absl::OkStatus();
  const auto name = single[size_t{0}]["SpecialToken"]["id"].Text();
  if (!name.ok()) return name.status();
  const auto found = std::find(parts_.pieces.begin(), parts_.pieces.end(), *name);
  if (found == parts_.pieces.end()) return single[size_t{0}]["SpecialToken"]["id"].Expected("the name of a token");
  parts_.bos = static_cast<TokenId>(found - parts_.pieces.begin());
  parts_.add_bos = true;
  return absl::OkStatus();
}

// A token of tokenizer_config.json: its piece, or an object that has it.
absl::StatusOr<std::optional<std::string>> TokenNamed(const Node& node) {
  if (node.value().is_null()) return std::nullopt;
  const auto text = node.value().is_object() ? node["content"].Text() : node.Text();
  if (!text.ok()) return text.status();
  return *text;
}

// One template, or several with names.
absl::StatusOr<std::optional<std::string>> ChatTemplateOf(const Node& node) {
  if (node.value().is_null()) return std::nullopt;
  if (!node.value().is_array()) {
    const auto text = node.Text();
    if (!text.ok()) return text.status();
    return *text;
  }
  for (size_t i = 0; i < node.size(); ++i) {
    if (node[i]["name"].value() != "default") continue;
    const auto text = node[i]["template"].Text();
    if (!text.ok()) return text.status();
    return *text;
  }
  return node.Expected("one named \"default\"");
}

}  // namespace

absl::StatusOr<engine::TokenizerParts> ReadTokenizerJson(absl::string_view text, const std::string& file) {
  auto document = ParseTokenizerDocument(text, file);
  if (!document.ok()) return document.status();
  return Reader(*std::move(document), file).Read();
}

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(absl::string_view text, const std::string& file) {
  const auto document = ParseTokenizerDocument(text, file);
  if (!document.ok()) return document.status();
  const Node root(document->root, "", file);
  TokenizerConfig config;
  config.file = file;
  const auto bos = TokenNamed(root["bos_token"]);
  if (!bos.ok()) return bos.status();
  config.bos_token = *bos;
  const auto eos = TokenNamed(root["eos_token"]);
  if (!eos.ok()) return eos.status();
  config.eos_token = *eos;
  const auto chat = ChatTemplateOf(root["chat_template"]);
  if (!chat.ok()) return chat.status();
  config.chat_template = *chat;
  if (root.Has("add_bos_token")) {
    const auto add = root["add_bos_token"].Flag(false);
    if (!add.ok()) return add.status();
    config.add_bos_token = *add;
  }
  if (absl::Status status = RequireFlag(root, "add_eos_token", false, false); !status.ok()) return status;
  return config;
}

absl::Status ApplyTokenizerConfig(const TokenizerConfig& config, engine::TokenizerParts& parts) {
  const auto find = [&](const char* key, const std::string& piece) -> absl::StatusOr<TokenId> {
    const auto found = std::find(parts.pieces.begin(), parts.pieces.end(), piece);
    if (found != parts.pieces.end()) return static_cast<TokenId>(found - parts.pieces.begin());
    return absl::InvalidArgumentError(absl::StrCat(config.file, ": /", key, ": ", Shown(Json(piece)), " is no token of ", parts.file));
  };
  if (config.bos_token) {
    const auto bos = find("bos_token", *config.bos_token);
    if (!bos.ok()) return bos.status();
    parts.bos = *bos;
  }
  if (config.eos_token) {
    const auto eos = find("eos_token", *config.eos_token);
    if (!eos.ok()) return eos.status();
    parts.ends.push_back(*eos);
  }
  if (!config.add_bos_token) return absl::OkStatus();
  if (*config.add_bos_token && parts.bos < 0) {
    return absl::InvalidArgumentError(absl::StrCat(config.file, ": /add_bos_token: true, but there is no bos_token"));
  }
  parts.add_bos = *config.add_bos_token;
  return absl::OkStatus();
}

}  // namespace spherical::server
