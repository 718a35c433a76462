#include "tests/fakes/gguf_builder.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "kernels/base/check.h"

namespace spherical::testing {
namespace {

template <class T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void PutString(std::string& out, std::string_view value) {
  Put<uint64_t>(out, value.size());
  out += value;
}
template <class T>
std::string Array(uint32_t element_type, const std::vector<T>& values) {
  std::string bytes;
  Put(bytes, element_type);
  Put<uint64_t>(bytes, values.size());
  for (const T& value : values) {
    if constexpr (std::is_same_v<T, std::string>) {
      PutString(bytes, value);
    } else {
      Put(bytes, value);
    }
  }
  return bytes;
}

}  // namespace

GgufBuilder& GgufBuilder::Raw(std::string_view key, uint32_t type, std::string bytes, bool again) {
  const auto found = std::find_if(keys_.begin(), keys_.end(), [&](const KeyEntry& e) { return e.key == key; });
  if (found == keys_.end() || again) {
    keys_.push_back({std::string(key), type, std::move(bytes)});
  } else {
    *found = {std::string(key), type, std::move(bytes)};
  }
  return *this;
}

GgufBuilder& GgufBuilder::String(std::string_view key, std::string_view value) {
  std::string bytes;
  PutString(bytes, value);
  return Raw(key, 8, std::move(bytes));
}
GgufBuilder& GgufBuilder::Strings(std::string_view key, const std::vector<std::string>& values) { return Raw(key, 9, Array(8, values)); }
GgufBuilder& GgufBuilder::I32s(std::string_view key, const std::vector<int32_t>& values) { return Raw(key, 9, Array(5, values)); }
GgufBuilder& GgufBuilder::F32s(std::string_view key, const std::vector<float>& values) { return Raw(key, 9, Array(6, values)); }

GgufBuilder& GgufBuilder::RemoveKey(std::string_view key) {
  std::erase_if(keys_, [&](const KeyEntry& e) { return e.key == key; });
  return *this;
}

GgufBuilder& GgufBuilder::Tensor(std::string_view name, uint32_t type, std::vector<int64_t> dims, std::string data) {
  TensorEntry entry{std::string(name), type, std::move(dims), std::move(data)};
  const auto found = std::find_if(tensors_.begin(), tensors_.end(), [&](const TensorEntry& e) { return e.name == name; });
  if (found == tensors_.end()) {
    tensors_.push_back(std::move(entry));
  } else {
    *found = std::move(entry);
  }
  return *this;
}

GgufBuilder& GgufBuilder::RemoveTensor(std::string_view name) {
  std::erase_if(tensors_, [&](const TensorEntry& e) { return e.name == name; });
  return *this;
}

GgufBuilder& GgufBuilder::LieAboutOffset(std::string_view name, uint64_t offset) {
  for (TensorEntry& e : tensors_) {
    if (e.name == name) e.lie = static_cast<int64_t>(offset);
  }
  return *this;
}

std::string GgufBuilder::Build() const {
  GgufBuilder all = *this;
  if (alignment != 32) all.U32("general.alignment", alignment);
  const auto pad = [&](std::string& bytes) { bytes.resize((bytes.size() + alignment - 1) / alignment * alignment); };

  std::string header = "GGUF", data;
  Put(header, version);
  Put<uint64_t>(header, all.tensors_.size());
  Put<uint64_t>(header, all.keys_.size());
  for (const KeyEntry& e : all.keys_) {
    PutString(header, e.key);
    Put(header, e.type);
    header += e.bytes;
  }
  for (const TensorEntry& e : all.tensors_) {
    PutString(header, e.name);
    Put(header, static_cast<uint32_t>(e.dims.size()));
    for (const int64_t extent : e.dims) Put(header, extent);
    Put(header, e.type);
    Put<uint64_t>(header, e.lie >= 0 ? static_cast<uint64_t>(e.lie) : data.size());
    data += e.data;
    pad(data);
  }
  pad(header);
  return header + data;
}

uint32_t GgufTypeNumber(std::string_view name) {
  constexpr std::pair<std::string_view, uint32_t> kNumbers[] = {{"F32", 0},   {"F16", 1},   {"Q4_0", 2}, {"Q4_1", 3},
                                                                {"Q5_0", 6},  {"Q5_1", 7},  {"Q8_0", 8}, {"Q4_K", 12},
                                                                {"Q5_K", 13}, {"Q6_K", 14}, {"BF16", 30}};
  const auto* found = std::find_if(std::begin(kNumbers), std::end(kNumbers), [&](const auto& n) { return n.first == name; });
  SPH_CHECK(found != std::end(kNumbers));
  return found->second;
}

std::string WriteTestFile(std::string_view name, std::string_view bytes) {
  const char* folder = std::getenv("TEST_TMPDIR");
  const std::string path = std::string(folder != nullptr ? folder : "/tmp") + "/" + std::string(name);
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  SPH_CHECK(file.good());
  return path;
}

}  // namespace spherical::testing
