#include "engine/model/geometry_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "engine/file_bytes.h"
#include "kernels/base/check.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'S', 'P', 'H', 'G', 'E', 'O', 'M', '\n'};
constexpr uint32_t kVersion = 2;
constexpr size_t kReadBytes = size_t{1} << 20;

struct Header {
  char magic[8];
  uint32_t version, layers, kv_heads, head_dim, context, origin;
  uint64_t tokens;
  Sha256 model;
};
static_assert(sizeof(Header) == 8 + 6 * 4 + 8 + 32 && std::is_trivially_copyable_v<Header>);

class Hasher {
 public:
  Hasher() : context_(EVP_MD_CTX_new()) { SPH_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1); }
  void Add(const void* data, size_t size) { SPH_CHECK(EVP_DigestUpdate(context_.get(), data, size) == 1); }
  Sha256 Finish() {
    Sha256 hash;
    SPH_CHECK(EVP_DigestFinal_ex(context_.get(), hash.data(), nullptr) == 1);
    return hash;
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

Sha256 HashOf(std::span<const char> bytes) {
  Hasher hasher;
  hasher.Add(bytes.data(), bytes.size());
  return hasher.Finish();
}

absl::Status Unreadable(const std::string& path) {
  const std::string why = fmt::format("{}: cannot be read: {}", path, std::strerror(errno));
  return errno == ENOENT ? absl::NotFoundError(why) : absl::InvalidArgumentError(why);
}

// f32 values of one head, in the file's order.
size_t FloatsPerHead(int32_t head_dim) {
  const size_t d = static_cast<size_t>(head_dim);
  return d + 2 * d * d + d / kernels::kGroup + d * kernels::kGroup;
}

size_t FileBytes(const ModelGeometry::Shape& shape) {
  const size_t heads = static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.kv_heads);
  return sizeof(Header) + heads * FloatsPerHead(shape.head_dim) * sizeof(float) + sizeof(Sha256);
}

std::string Serialise(const ModelGeometry& geometry, const GeometryOrigin& origin) {
  const ModelGeometry::Shape& shape = geometry.shape();
  Header header = {.magic = {},
                   .version = kVersion,
                   .layers = static_cast<uint32_t>(shape.layers),
                   .kv_heads = static_cast<uint32_t>(shape.kv_heads),
                   .head_dim = static_cast<uint32_t>(shape.head_dim),
                   .context = static_cast<uint32_t>(origin.context),
                   .origin = static_cast<uint32_t>(origin.text),
                   .tokens = static_cast<uint64_t>(origin.tokens),
                   .model = origin.model};
  std::copy(std::begin(kMagic), std::end(kMagic), header.magic);
  std::string bytes;
  bytes.reserve(FileBytes(shape));
  bytes.append(reinterpret_cast<const char*>(&header), sizeof(header));
  const size_t d = static_cast<size_t>(shape.head_dim);
  const auto add = [&](const float* values, size_t count) { bytes.append(reinterpret_cast<const char*>(values), count * sizeof(float)); };
  for (int32_t head = 0; head < geometry.heads(); ++head) {
    add(geometry.key(head).centre, d);
    add(geometry.key(head).map, d * d);
    add(geometry.query(head).map, d * d);
    add(geometry.key(head).importance, d / kernels::kGroup);
    add(geometry.shaping(head).data(), d * kernels::kGroup);
  }
  const Sha256 hash = HashOf(bytes);
  bytes.append(reinterpret_cast<const char*>(hash.data()), hash.size());
  SPH_CHECK(bytes.size() == FileBytes(shape));
  return bytes;
}

std::string Describe(const ModelGeometry::Shape& shape) {
  return fmt::format("{} layers of {} kv heads of {}", shape.layers, shape.kv_heads, shape.head_dim);
}

// What is wrong with a header, before anything behind it is looked at; empty: nothing.
std::string Complaint(const Header& header, const WantedGeometry& wanted) {
  if (!std::equal(std::begin(kMagic), std::end(kMagic), header.magic)) return "is no file of geometries";
  if (header.version != kVersion) return fmt::format("is of version {}; this build reads version {}", header.version, kVersion);
  const ModelGeometry::Shape& shape = wanted.shape;
  if (header.layers != static_cast<uint32_t>(shape.layers) || header.kv_heads != static_cast<uint32_t>(shape.kv_heads) ||
      header.head_dim != static_cast<uint32_t>(shape.head_dim)) {
    return fmt::format("is for {} layers of {} kv heads of {}; the model has {}", header.layers, header.kv_heads, header.head_dim,
                       Describe(shape));
  }
  return "";
}

// The same of a header whose file has a good checksum: it says what its writer meant.
std::string ComplaintOfWhole(const Header& header, const WantedGeometry& wanted) {
  if (header.model != wanted.model) {
    return fmt::format("is for another model, with sha256 {}; this one's is {}", Hex(header.model), Hex(wanted.model));
  }
  if (header.context < static_cast<uint32_t>(wanted.context)) {
    return fmt::format("was made for {} positions; {} are served", header.context, wanted.context);
  }
  if (header.context > INT32_MAX || header.origin > static_cast<uint32_t>(GeometryOrigin::Text::kGiven) || header.tokens > INT64_MAX) {
    return "says nonsense of where it comes from";
  }
  return "";
}

// Copies the arrays out of the file's bytes. False: a value that no calibration makes.
bool Fill(std::span<const char> bytes, ModelGeometry& geometry) {
  const auto take = [&](std::span<float> values) {
    std::memcpy(values.data(), bytes.data(), values.size_bytes());
    bytes = bytes.subspan(values.size_bytes());
    return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
  };
  for (int32_t head = 0; head < geometry.heads(); ++head) {
    if (!take(geometry.centre(head)) || !take(geometry.map(head)) || !take(geometry.query_map(head))) return false;
    const std::span<float> importance = geometry.importance(head);
    if (!take(importance) || importance.back() < 0 || !std::is_sorted(importance.rbegin(), importance.rend())) return false;
    if (!take(geometry.shaping(head))) return false;
  }
  return true;
}

}  // namespace

std::string Hex(const Sha256& hash) {
  std::string text;
  for (const uint8_t byte : hash) text += fmt::format("{:02x}", byte);
  return text;
}

absl::StatusOr<Sha256> HashFile(const std::string& path, const std::atomic<bool>& stop) { return HashFiles({&path, 1}, stop); }

absl::StatusOr<Sha256> HashFiles(std::span<const std::string> paths, const std::atomic<bool>& stop) {
  Hasher hasher;
  std::string some(kReadBytes, '\0');
  for (const std::string& path : paths) {
    const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.ok()) return Unreadable(path);
    for (ssize_t n = 1; n > 0;) {
      if (stop.load()) return absl::CancelledError("stopped while hashing the model");
      n = ReadSome(file, some.data(), some.size());
      if (n < 0) return Unreadable(path);
      hasher.Add(some.data(), static_cast<size_t>(n));
    }
  }
  return hasher.Finish();
}

absl::Status WriteGeometry(const std::string& path, const ModelGeometry& geometry, const GeometryOrigin& origin) {
  const int why = ReplaceFile(path, Serialise(geometry, origin));
  return why == 0 ? absl::OkStatus() : absl::FailedPreconditionError(fmt::format("{}: cannot be written: {}", path, std::strerror(why)));
}

absl::StatusOr<StoredGeometry> ReadGeometry(const std::string& path, const WantedGeometry& wanted) {
  const auto refuse = [&](const std::string& why) { return absl::InvalidArgumentError(fmt::format("{}: {}", path, why)); };
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status;
  if (!file.ok() || fstat(file.get(), &status) != 0) return Unreadable(path);
  if (!S_ISREG(status.st_mode)) return refuse("is no file");
  const size_t size = static_cast<size_t>(status.st_size), expected = FileBytes(wanted.shape);

  Header header;
  const ssize_t got = ReadSome(file, reinterpret_cast<char*>(&header), sizeof(header));
  if (got < 0) return Unreadable(path);
  if (static_cast<size_t>(got) < sizeof(header)) return refuse(fmt::format("is cut off: {} bytes, expected {}", got, expected));
  if (const std::string why = Complaint(header, wanted); !why.empty()) return refuse(why);
  if (size != expected) {
    return refuse(fmt::format("is {}: {} bytes, expected {}", size < expected ? "cut off" : "too long", size, expected));
  }

  std::string bytes(expected, '\0');
  std::memcpy(bytes.data(), &header, sizeof(header));
  const ssize_t rest = ReadSome(file, bytes.data() + sizeof(header), expected - sizeof(header));
  if (rest < 0) return Unreadable(path);
  const std::span<const char> hashed = std::span<const char>(bytes).first(expected - sizeof(Sha256));
  const Sha256 hash = HashOf(hashed);
  if (std::memcmp(hash.data(), hashed.data() + hashed.size(), hash.size()) != 0) return refuse("is damaged: its checksum is wrong");
  if (const std::string why = ComplaintOfWhole(header, wanted); !why.empty()) return refuse(why);

  StoredGeometry stored{.geometry = ModelGeometry(wanted.shape),
                        .origin = {.model = header.model,
                                   .context = static_cast<int32_t>(header.context),
                                   .text = static_cast<GeometryOrigin::Text>(header.origin),
                                   .tokens = static_cast<int64_t>(header.tokens)}};
  if (!Fill(hashed.subspan(sizeof(header)), stored.geometry)) return refuse("holds numbers that no calibration makes");
  stored.geometry.AllotWidths();
  return stored;
}

}  // namespace spherical::engine
