// The lexer: PTX ISA chapter 4.2 to 4.5 (comments, statements, identifiers, constants).
#include "ptx/lexer.h"

#include <cctype>

#include "ptx/error.h"

namespace softgpu::ptx {
namespace {

bool isWordCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.';
}

// The sign in a decimal number such as 2.5e-3.
bool isExponentSign(std::string_view source, size_t start, size_t at) {
  const bool isDecimal = std::isdigit(static_cast<unsigned char>(source[start])) && source.substr(start, 2) != "0x";
  return isDecimal && (source[at] == '-' || source[at] == '+') && (source[at - 1] == 'e' || source[at - 1] == 'E');
}

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  std::vector<Token> tokens;
  u32 line = 1;
  size_t at = 0;
  const size_t size = source.size();
  while (at < size) {
    char c = source[at];
    if (c == '\n') {
      ++line, ++at;
    } else if (std::isspace(static_cast<unsigned char>(c)) || c == '\0') {
      ++at;
    } else if (source.substr(at, 2) == "//") {
      while (at < size && source[at] != '\n') ++at;
    } else if (source.substr(at, 2) == "/*") {
      size_t end = source.find("*/", at + 2);
      if (end == std::string_view::npos) throw PtxError(line, "comment without an end");
      for (; at < end + 2; ++at) line += source[at] == '\n';
    } else if (c == '"') {
      size_t end = source.find('"', at + 1);
      if (end == std::string_view::npos) throw PtxError(line, "string without an end");
      tokens.push_back({TokenKind::kString, source.substr(at + 1, end - at - 1), line});
      at = end + 1;
    } else if (isWordCharacter(c)) {
      size_t start = at;
      while (at < size) {
        // `::` joins the parts of a modifier such as shared::cta; a single `:` ends a label.
        // Directives may follow each other without a blank: `.reg.b32`.
        if (source[at] == '.' && source[start] == '.' && at > start) break;
        if (source.substr(at, 2) == "::") {
          at += 2;
        } else if (isWordCharacter(source[at]) || isExponentSign(source, start, at)) {
          ++at;
        } else {
          break;
        }
      }
      tokens.push_back({TokenKind::kWord, source.substr(start, at - start), line});
    } else {
      tokens.push_back({TokenKind::kSymbol, source.substr(at, 1), line});
      ++at;
    }
  }
  tokens.push_back({TokenKind::kEnd, "end of text", line});
  return tokens;
}

}  // namespace softgpu::ptx
