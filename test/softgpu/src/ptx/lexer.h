// Cuts PTX text into tokens. A dotted name (`add.s32`, `%tid.x`, `L2::128B`) is one word.
#pragma once

#include <string_view>
#include <vector>

#include "base/types.h"

namespace softgpu::ptx {

enum class TokenKind : u8 { kWord, kString, kSymbol, kEnd };

struct Token {
  TokenKind kind;
  std::string_view text;  // a view into the source, which must outlive it
  u32 line;

  bool is(char symbol) const { return kind == TokenKind::kSymbol && text[0] == symbol; }
  bool is(std::string_view word) const { return kind == TokenKind::kWord && text == word; }
};

// The last token has kind kEnd. Throws PtxError for an unterminated comment or string.
std::vector<Token> tokenize(std::string_view source);

}  // namespace softgpu::ptx
