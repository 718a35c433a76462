#ifndef SPHERICAL_ENGINE_MODEL_BYTE_LEVEL_H_
#define SPHERICAL_ENGINE_MODEL_BYTE_LEVEL_H_

#include <array>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/intake/submission.h"
#include "engine/model/vocabulary.h"

namespace spherical::engine {

// The usual byte-level alphabet: a piece spells its bytes with printable characters. Bytes that are printable in Latin-1 stand for
// themselves, the others for U+0100 and up, in order.

// Appends the bytes that a piece spells. False (and nothing appended) when a character of it is not a letter of the alphabet.
bool AppendSpelled(std::string_view piece, std::string& bytes);

// The token of each byte; -1 where the vocabulary has none. InvalidArgument: it lacks one that text cannot do without.
absl::StatusOr<std::array<TokenId, 256>> FindByteLetters(const TokenIndex& pieces);

}  // namespace spherical::engine

#endif  // SPHERICAL_ENGINE_MODEL_BYTE_LEVEL_H_
