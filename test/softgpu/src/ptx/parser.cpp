// Recursive descent over the grammar of the PTX ISA, chapters 4, 5 and 11. Debug directives have no effect.
#include "ptx/parser.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "ptx/error.h"
#include "ptx/lexer.h"

namespace softgpu::ptx {
namespace {

bool isNumber(std::string_view text) { return !text.empty() && text[0] >= '0' && text[0] <= '9'; }

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)) {}

  Tree run() {
    while (peek().kind != TokenKind::kEnd) module();
    return std::move(tree_);
  }

 private:
  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  const Token& next() { return tokens_[at_ < tokens_.size() - 1 ? at_++ : at_]; }
  [[noreturn]] void fail(const std::string& what) const { throw PtxError(peek().line, what); }
  bool accept(char symbol) {
    bool yes = peek().is(symbol);
    at_ += yes;
    return yes;
  }
  bool accept(std::string_view word) {
    bool yes = peek().is(word);
    at_ += yes;
    return yes;
  }
  void expect(char symbol) {
    if (!accept(symbol)) fail(std::string("expected '") + symbol + "' before '" + std::string(peek().text) + "'");
  }
  std::string word() {
    if (peek().kind != TokenKind::kWord) fail("expected a name before '" + std::string(peek().text) + "'");
    return std::string(next().text);
  }
  std::string signedWord() {
    const std::string sign = accept('-') ? "-" : "";
    return sign + word();
  }
  u64 number() {
    std::string text = signedWord();
    if (!isNumber(text) && text[0] != '-') fail("expected a number, found '" + text + "'");
    return literalBits(text, "u64");
  }
  void skipPast(char symbol) {
    while (!peek().is(symbol) && peek().kind != TokenKind::kEnd) next();
    expect(symbol);
  }
  // The rest of a directive that ends with its line.
  void skipLine() {
    u32 line = peek().line;
    while (peek().line == line && peek().kind != TokenKind::kEnd) next();
  }

  void module() {
    if (accept(".version")) {
      tree_.version = word();
    } else if (accept(".target")) {
      tree_.target = word();
      if (!tree_.target.starts_with("sm_")) fail("unknown target " + tree_.target);
      tree_.architecture = static_cast<u32>(std::strtoul(tree_.target.c_str() + 3, nullptr, 10));
      while (accept(',')) word();
    } else if (accept(".address_size")) {
      if (number() != 64) fail("only 64-bit addresses are supported");
    } else if (peek().is(".file") || peek().is(".loc")) {
      skipLine();
    } else if (accept(".section")) {
      skipPast('{'), skipPast('}');
    } else if (accept(".pragma") || accept(".alias")) {
      skipPast(';');
    } else {
      declaration();
    }
  }

  void declaration() {
    bool isExtern = false;
    while (peek().is(".extern") || peek().is(".visible") || peek().is(".weak") || peek().is(".common")) {
      isExtern |= next().text == ".extern";
    }
    if (peek().is(".entry") || peek().is(".func")) {
      tree_.functions.push_back(function());
    } else {
      variables(isExtern, [this](Variable v) { tree_.variables.push_back(std::move(v)); });
    }
  }

  Function function() {
    Function f;
    f.line = peek().line;
    f.isEntry = next().text == ".entry";
    accept(".noreturn");
    if (!f.isEntry && peek().is('(')) f.results = parameterList();
    f.name = word();
    if (peek().is('(')) f.parameters = parameterList();
    while (!peek().is('{') && !peek().is(';')) performanceDirective(f);
    if (accept(';')) return f;
    f.hasBody = true;
    expect('{');
    for (u32 depth = 1; depth > 0;) {
      if (accept('{')) {
        ++depth;
        f.body.push_back(ScopeBegin{});
      } else if (accept('}')) {
        if (--depth > 0) f.body.push_back(ScopeEnd{});
      } else {
        bodyItem(f.body);
      }
    }
    return f;
  }

  std::vector<Variable> parameterList() {
    std::vector<Variable> list;
    expect('(');
    while (!accept(')')) {
      variables(
          false, [&](Variable v) { list.push_back(std::move(v)); }, /*single=*/true);
      accept(',');
    }
    return list;
  }

  void performanceDirective(Function& f) {
    std::string name = word();
    if (name == ".noreturn" || name == ".explicitcluster" || name == ".blocksareclusters") return;
    if (name == ".pragma" || name == ".attribute") return skipPast(';');
    if (name != ".maxntid" && name != ".reqntid" && name != ".minnctapersm" && name != ".maxnreg" &&
        name != ".maxnctapersm" && name != ".reqnctapercluster" && name != ".maxclusterrank") {
      fail("unknown directive " + name);
    }
    u64 product = number();
    while (accept(',')) product *= number();
    if (name == ".maxntid") f.maxThreads = static_cast<u32>(product);
    if (name == ".reqntid") f.requiredThreads = static_cast<u32>(product);
  }

  void bodyItem(std::vector<Item>& body) {
    if (peek().kind == TokenKind::kEnd) fail("function without an end");
    if (peek().is(".reg")) return registers(body);
    if (peek().is(".loc") || peek().is(".file")) return skipLine();
    if (accept(".pragma")) return skipPast(';');
    if (peek().kind == TokenKind::kWord && peek(1).is(':')) {
      std::string name = word();
      expect(':');
      if (accept(".branchtargets")) {
        BranchTargets targets{name, {}};
        do targets.labels.push_back(word());
        while (accept(','));
        expect(';');
        body.push_back(std::move(targets));
      } else if (peek().is(".callprototype") || peek().is(".calltargets")) {
        fail("indirect calls are not supported");
      } else {
        body.push_back(Label{name});
      }
      return;
    }
    if (peek().kind == TokenKind::kWord && peek().text[0] == '.') {
      bool isExtern = accept(".extern");
      return variables(isExtern, [&](Variable v) { body.push_back(std::move(v)); });
    }
    if (accept(';')) return;
    body.push_back(statement());
  }

  void registers(std::vector<Item>& body) {
    next();
    std::string type = word().substr(1);
    if (typeBytes(type) == 0) fail("unknown register type ." + type);
    do {
      RegisterDeclaration r{type, word(), 0};
      if (accept('<')) {
        r.count = static_cast<u32>(number());
        expect('>');
      }
      body.push_back(std::move(r));
    } while (accept(','));
    expect(';');
  }

  // One declaration of one or more variables: .space .align n .type name[n] = {…}, name, …;
  template <class Add>
  void variables(bool isExtern, Add add, bool single = false) {
    Variable v;
    v.isExtern = isExtern;
    std::string type;
    u32 vector = 1;
    while (peek().kind == TokenKind::kWord && peek().text[0] == '.') {
      std::string directive = word();
      std::string_view name = std::string_view(directive).substr(1);
      if (name == "align") {
        v.align = static_cast<u32>(number());
      } else if (name == "ptr") {
        // `.ptr .space .align n` describes what a kernel parameter points to; the parameter itself is plain.
        while (peek().is(".global") || peek().is(".shared") || peek().is(".const") || peek().is(".local")) next();
        if (accept(".align")) number();
      } else if (name == "attribute") {
        skipPast(')');
      } else if (name == "v2" || name == "v4") {
        vector = name == "v2" ? 2 : 4;
      } else if (typeBytes(name) != 0) {
        type = name;
      } else if (auto space = spaceNamed(name)) {
        v.space = *space;
      } else {
        fail("unknown directive " + directive);
      }
    }
    if (type.empty()) fail("declaration without a type before '" + std::string(peek().text) + "'");
    u32 element = typeBytes(type) * vector;
    v.align = std::max(v.align, element);
    do {
      Variable one = v;
      one.name = word();
      one.size = element;
      while (accept('[')) {
        one.size = peek().is(']') ? 0 : one.size * number();
        expect(']');
      }
      if (accept('=')) {
        initialiser(one, type);
        if (one.size == 0) one.size = one.initial.size();
      }
      add(std::move(one));
    } while (!single && accept(','));
    if (!single) expect(';');
  }

  static std::optional<Space> spaceNamed(std::string_view name) {
    if (name == "global") return Space::kGlobal;
    if (name == "shared") return Space::kShared;
    if (name == "param") return Space::kParam;
    if (name == "local") return Space::kLocal;
    if (name == "const") return Space::kConst;
    return std::nullopt;
  }

  void initialiser(Variable& v, const std::string& type) {
    if (accept('{')) {
      while (!accept('}')) {
        initialiser(v, type);
        accept(',');
      }
      return;
    }
    u32 bytes = typeBytes(type);
    u64 at = v.initial.size();
    u64 bits = 0;
    if (peek().is('-') || isNumber(peek().text)) {
      std::string text = signedWord();
      bits = literalBits(text, type);
    } else {
      bool generic = accept("generic");
      if (generic) expect('(');
      Variable::Reference reference{at, word(), 0, generic};
      if (generic) expect(')');
      if (accept('+')) reference.offset = static_cast<i64>(number());
      v.references.push_back(std::move(reference));
    }
    v.initial.resize(at + bytes);
    std::memcpy(v.initial.data() + at, &bits, std::min<u32>(bytes, 8));
  }

  Statement statement() {
    Statement s;
    s.line = peek().line;
    const char* start = peek().text.data();
    if (accept('@')) {
      s.guardNegated = accept('!');
      s.guard = word();
    }
    s.opcode = word();
    while (!peek().is(';')) {
      if (peek().kind == TokenKind::kEnd) fail("statement without an end");
      s.operands.push_back(operand());
      if (!peek().is(';')) expect(',');
    }
    s.text = std::string(start, static_cast<size_t>(peek().text.data() - start));
    for (char& c : s.text) c = c == '\n' || c == '\t' ? ' ' : c;
    expect(';');
    return s;
  }

  Operand operand() {
    Operand o;
    if (accept('{')) return list(Operand::Kind::kVector, '}');
    if (accept('(')) return list(Operand::Kind::kList, ')');
    if (accept('[')) {
      o.kind = Operand::Kind::kAddress;
      o.name = word();
      while (peek().is('+') || peek().is('-')) {
        bool minus = next().text == "-";
        i64 value = static_cast<i64>(number());
        o.offset += minus ? -value : value;
      }
      while (accept(',')) o.elements.push_back(operand());
      expect(']');
      return o;
    }
    o.negated = accept('!');
    if (peek().is('-') || isNumber(peek().text)) {
      o.kind = Operand::Kind::kNumber;
      o.number = signedWord();
      return o;
    }
    o.name = word();
    if (accept('|')) o.pair = word();
    if (accept('+')) o.offset = static_cast<i64>(number());
    return o;
  }

  Operand list(Operand::Kind kind, char end) {
    Operand o;
    o.kind = kind;
    while (!accept(end)) {
      o.elements.push_back(operand());
      if (!peek().is(end)) expect(',');
    }
    return o;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  Tree tree_;
};

}  // namespace

u64 literalBits(const std::string& text, std::string_view type) {
  const bool real = text.size() > 2 && text[0] == '0' && std::strchr("fFdD", text[1]);
  if (real) {
    const u64 bits = std::strtoull(text.c_str() + 2, nullptr, 16);
    const bool wide = text[1] == 'd' || text[1] == 'D';
    // A double is converted to an f32; for everything else a literal is its bits, as it is for ptxas.
    return wide && type == "f32" ? std::bit_cast<u32>(static_cast<float>(std::bit_cast<double>(bits))) : bits;
  }
  if (text.find('.') != std::string::npos || type == "f32" || type == "f64") {
    double value = std::strtod(text.c_str(), nullptr);
    if (type == "f64") return std::bit_cast<u64>(value);
    return std::bit_cast<u32>(static_cast<float>(value));
  }
  if (text.starts_with("0b") || text.starts_with("0B")) return std::strtoull(text.c_str() + 2, nullptr, 2);
  return text[0] == '-' ? static_cast<u64>(std::strtoll(text.c_str(), nullptr, 0))
                        : std::strtoull(text.c_str(), nullptr, 0);
}

u32 typeBytes(std::string_view name) {
  if (name == "pred") return 1;
  if (name == "f16x2" || name == "bf16x2") return 4;
  if (name == "bf16") return 2;
  if (name.size() < 2 || !std::strchr("usbf", name[0])) return 0;
  std::string_view bits = name.substr(1);
  if (bits == "8" && name[0] != 'f') return 1;
  if (bits == "16") return 2;
  if (bits == "32") return 4;
  if (bits == "64") return 8;
  if (bits == "128" && name[0] == 'b') return 16;
  return 0;
}

Tree parse(std::string_view source) { return Parser(source).run(); }

}  // namespace softgpu::ptx
