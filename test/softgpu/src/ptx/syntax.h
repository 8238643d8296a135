// The syntax tree of a PTX module: what was written, before any name is resolved.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/types.h"

namespace softgpu::ptx {

enum class Space : u8 { kGeneric, kGlobal, kShared, kParam, kLocal, kConst };

// An instruction operand as written.
struct Operand {
  enum class Kind : u8 { kName, kNumber, kAddress, kVector, kList };
  Kind kind = Kind::kName;
  bool negated = false;           // !p
  std::string name;               // kName, or the base of kAddress
  std::string pair;               // the q of p|q
  std::string number;             // kNumber, as written, sign included
  i64 offset = 0;                 // kAddress: [name + offset]
  std::vector<Operand> elements;  // kVector: {a, b}; kList: (a, b); kAddress: what follows a comma inside [ ]
};

struct Statement {
  std::string guard;
  bool guardNegated = false;
  std::string opcode;  // with all modifiers
  std::vector<Operand> operands;
  u32 line = 0;
  std::string text;  // for messages
};

struct RegisterDeclaration {
  std::string type;  // b32, pred, ...
  std::string name;
  u32 count = 0;  // name<count>; 0 for a single register
};

struct Variable {
  Space space = Space::kGlobal;
  std::string name;
  u32 align = 1;
  u64 size = 0;  // 0 for an extern array without bound
  bool isExtern = false;
  std::vector<u8> initial;  // may be shorter than size
  struct Reference {        // a symbol's address inside the initial bytes
    u64 at;
    std::string symbol;
    i64 offset;
    bool generic;
  };
  std::vector<Reference> references;
};

struct Label {
  std::string name;
};
struct BranchTargets {
  std::string name;
  std::vector<std::string> labels;
};
struct ScopeBegin {};
struct ScopeEnd {};
using Item = std::variant<Statement, RegisterDeclaration, Variable, Label, BranchTargets, ScopeBegin, ScopeEnd>;

struct Function {
  std::string name;
  bool isEntry = false;
  bool hasBody = false;
  std::vector<Variable> results;
  std::vector<Variable> parameters;
  std::vector<Item> body;
  std::optional<u32> maxThreads;       // .maxntid, as a product
  std::optional<u32> requiredThreads;  // .reqntid
  u32 line = 0;
};

struct Tree {
  std::string version;
  std::string target;
  u32 architecture = 0;  // 80 for sm_80
  std::vector<Variable> variables;
  std::vector<Function> functions;
};

}  // namespace softgpu::ptx
