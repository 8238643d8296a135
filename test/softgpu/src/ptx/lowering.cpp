// Name resolution, scopes, labels and call inlining. What an instruction means is the instruction set's business.
#include "ptx/lowering.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <tuple>

#include "isa/isa.h"
#include "ptx/parser.h"

namespace softgpu::ptx {
namespace {

struct Symbol {
  enum class Kind : u8 { kRegister, kAddress, kKernelParameter, kDynamicShared };
  Kind kind;
  u32 virtualRegister = 0;
  Space space = Space::kGeneric;
  u64 address = 0;
};

struct SpecialName {
  std::string_view name;
  Special id;
};

// PTX ISA chapter 10. What is not here is an error; clusters are always of one block.
constexpr SpecialName kSpecialNames[] = {
    {"%tid.x", Special::kTidX},
    {"%tid.y", Special::kTidY},
    {"%tid.z", Special::kTidZ},
    {"%ntid.x", Special::kNtidX},
    {"%ntid.y", Special::kNtidY},
    {"%ntid.z", Special::kNtidZ},
    {"%ctaid.x", Special::kCtaidX},
    {"%ctaid.y", Special::kCtaidY},
    {"%ctaid.z", Special::kCtaidZ},
    {"%nctaid.x", Special::kNctaidX},
    {"%nctaid.y", Special::kNctaidY},
    {"%nctaid.z", Special::kNctaidZ},
    {"%laneid", Special::kLaneId},
    {"%warpid", Special::kWarpId},
    {"%nwarpid", Special::kNwarpId},
    {"%smid", Special::kSmId},
    {"%nsmid", Special::kNsmId},
    {"%gridid", Special::kGridId},
    {"%lanemask_eq", Special::kLaneMaskEq},
    {"%lanemask_lt", Special::kLaneMaskLt},
    {"%lanemask_le", Special::kLaneMaskLe},
    {"%lanemask_gt", Special::kLaneMaskGt},
    {"%lanemask_ge", Special::kLaneMaskGe},
    {"%dynamic_smem_size", Special::kDynamicSharedSize},
    {"%total_smem_size", Special::kTotalSharedSize},
    {"%envreg1", Special::kGridWorkspaceHigh},
    {"%envreg2", Special::kGridWorkspaceLow},
    {"%is_explicit_cluster", Special::kZero},
    {"%cluster_ctarank", Special::kZero},
    {"%cluster_nctarank", Special::kOne},
    {"%cluster_ctaid.x", Special::kZero},
    {"%cluster_ctaid.y", Special::kZero},
    {"%cluster_ctaid.z", Special::kZero},
    {"%cluster_nctaid.x", Special::kOne},
    {"%cluster_nctaid.y", Special::kOne},
    {"%cluster_nctaid.z", Special::kOne},
    {"%clusterid.x", Special::kCtaidX},
    {"%clusterid.y", Special::kCtaidY},
    {"%clusterid.z", Special::kCtaidZ},
    {"%nclusterid.x", Special::kNctaidX},
    {"%nclusterid.y", Special::kNctaidY},
    {"%nclusterid.z", Special::kNctaidZ},
};

constexpr u32 kNoInstruction = ~0u;
// Virtual register 0 is the predicate that is always true.
constexpr u32 kTrue = 0;
// Predicates of the kernel that no statement names.
constexpr u64 kPredicateSink = 1, kCarry = 2;

}  // namespace

class Lowering {
 public:
  Lowering(const Tree& tree, const std::map<std::string, ModuleSymbol>& globals) : tree_(tree), globals_(globals) {}

  std::unique_ptr<Kernel> run(const Function& entry) {
    kernel_ = std::make_unique<Kernel>();
    kernel_->name = entry.name;
    kernel_->target = tree_.architecture;
    registers_.push_back({VirtualRegister::Kind::kPredicate, 4});
    Scope parameters;
    u64 offset = 0;
    for (const Variable& v : entry.parameters) {
      offset = alignUp(offset, v.align);
      parameters.symbols[v.name] = {Symbol::Kind::kKernelParameter, 0, Space::kParam, offset};
      kernel_->parameters.push_back({static_cast<u32>(offset), static_cast<u32>(v.size)});
      offset += v.size;
    }
    kernel_->parameterBytes = static_cast<u32>(offset);
    if (entry.requiredThreads) kernel_->requiredThreads = *entry.requiredThreads;
    if (entry.maxThreads) kernel_->maxThreads = *entry.maxThreads;
    inlineFunction(entry, std::move(parameters));
    finish(entry);
    return std::move(kernel_);
  }

 private:
  friend class Decoding;

  struct Scope {
    std::unordered_map<std::string, Symbol> symbols;
    std::unordered_map<std::string, u32> labels;
    std::unordered_map<std::string, const BranchTargets*> tables;
  };
  struct Frame {
    const Function* function;
    std::vector<Scope> scopes;
    u32 returnLabel;
  };

  // The body between the current position and its end; labels are known before their use.
  void declareLabels(const std::vector<Item>& body, size_t from, Scope& scope) {
    int depth = 0;
    for (size_t k = from; k < body.size() && depth >= 0; ++k) {
      if (std::holds_alternative<ScopeBegin>(body[k])) ++depth;
      if (std::holds_alternative<ScopeEnd>(body[k])) --depth;
      if (depth != 0) continue;
      if (auto* label = std::get_if<Label>(&body[k])) scope.labels[label->name] = newLabel();
      if (auto* table = std::get_if<BranchTargets>(&body[k])) scope.tables[table->name] = table;
    }
  }

  void inlineFunction(const Function& function, Scope parameters) {
    for (const Frame& frame : frames_) {
      if (frame.function == &function) throw PtxError(function.line, "recursive call of " + function.name);
    }
    frames_.push_back({&function, {}, newLabel()});
    declareLabels(function.body, 0, parameters);
    frames_.back().scopes.push_back(std::move(parameters));
    for (size_t k = 0; k < function.body.size(); ++k) item(function.body, k);
    labelAt_[frames_.back().returnLabel] = static_cast<u32>(kernel_->code.size());
    frames_.pop_back();
  }

  void item(const std::vector<Item>& body, size_t k) {
    auto& scopes = frames_.back().scopes;
    if (std::holds_alternative<ScopeBegin>(body[k])) {
      Scope scope;
      declareLabels(body, k + 1, scope);
      scopes.push_back(std::move(scope));
    } else if (std::holds_alternative<ScopeEnd>(body[k])) {
      scopes.pop_back();
    } else if (auto* label = std::get_if<Label>(&body[k])) {
      labelAt_[scopes.back().labels.at(label->name)] = static_cast<u32>(kernel_->code.size());
    } else if (auto* declared = std::get_if<RegisterDeclaration>(&body[k])) {
      declare(*declared);
    } else if (auto* variable = std::get_if<Variable>(&body[k])) {
      declare(*variable);
    } else if (auto* statement = std::get_if<Statement>(&body[k])) {
      Decoding decoding(*this, *statement);
      isa::decode(decoding);
      if (decoding.emits_) emit(decoding);
    }
  }

  void declare(const RegisterDeclaration& r) {
    auto add = [&](const std::string& name) {
      bool predicate = r.type == "pred";
      auto kind = predicate ? VirtualRegister::Kind::kPredicate : VirtualRegister::Kind::kNormal;
      // 8-bit registers are kept in 16 bits, so that no lane array is narrower.
      u32 bytes = predicate ? 4 : std::max(2u, typeBytes(r.type));
      frames_.back().scopes.back().symbols[name] = {Symbol::Kind::kRegister, newRegister(kind, bytes)};
      registers_.back().name = name;
    };
    if (r.count == 0) add(r.name);
    for (u32 k = 0; k < r.count; ++k) add(r.name + std::to_string(k));
  }

  void declare(const Variable& v) {
    Symbol symbol{Symbol::Kind::kAddress, 0, v.space, 0};
    if (v.space == Space::kShared) {
      symbol = sharedSymbol(v);
    } else if (v.space == Space::kLocal || v.space == Space::kParam) {
      symbol.space = Space::kLocal;
      symbol.address = allocateLocal(v);
    } else {
      auto it = globals_.find(v.name);
      if (it == globals_.end()) throw PtxError(0, "variable " + v.name + " in a function body is not supported");
      symbol.address = it->second.address;
    }
    frames_.back().scopes.back().symbols[v.name] = symbol;
  }

  u64 allocateLocal(const Variable& v) {
    u64 at = alignUp(kernel_->localBytes, v.align);
    kernel_->localBytes = static_cast<u32>(at + v.size);
    return at;
  }

  Symbol sharedSymbol(const Variable& v) {
    if (v.isExtern && v.size == 0) {
      dynamicAlign_ = std::max(dynamicAlign_, v.align);
      return {Symbol::Kind::kDynamicShared, 0, Space::kShared, 0};
    }
    u64 at = alignUp(kernel_->staticShared, v.align);
    kernel_->staticShared = static_cast<u32>(at + v.size);
    return {Symbol::Kind::kAddress, 0, Space::kShared, at};
  }

  const Symbol* find(const std::string& name) {
    auto& scopes = frames_.back().scopes;
    for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
      auto it = scope->symbols.find(name);
      if (it != scope->symbols.end()) return &it->second;
    }
    auto known = moduleSymbols_.find(name);
    if (known != moduleSymbols_.end()) return &known->second;
    auto global = globals_.find(name);
    if (global != globals_.end()) {
      Symbol symbol{Symbol::Kind::kAddress, 0, global->second.space, global->second.address};
      return &(moduleSymbols_[name] = symbol);
    }
    // Shared variables of the module take room only in kernels that name them.
    for (const Variable& v : tree_.variables) {
      if (v.name == name && v.space == Space::kShared) return &(moduleSymbols_[name] = sharedSymbol(v));
    }
    return nullptr;
  }

  u32 findLabel(const std::string& name, u32 line) {
    auto& scopes = frames_.back().scopes;
    for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
      auto it = scope->labels.find(name);
      if (it != scope->labels.end()) return it->second;
    }
    throw PtxError(line, "unknown label " + name);
  }

  u32 newLabel() {
    labelAt_.push_back(kNoInstruction);
    return static_cast<u32>(labelAt_.size() - 1);
  }
  u32 newRegister(VirtualRegister::Kind kind, u32 bytes, u64 value = 0) {
    registers_.push_back({kind, static_cast<u8>(bytes), value});
    return static_cast<u32>(registers_.size() - 1);
  }
  u32 shared(VirtualRegister::Kind kind, u32 bytes, u64 value) {
    auto [it, added] = interned_.try_emplace({static_cast<u32>(kind), bytes, value}, 0);
    if (added) it->second = newRegister(kind, bytes, value);
    return it->second;
  }

  void emit(Decoding& d) {
    d.out_.source = static_cast<u32>(kernel_->sources.size());
    kernel_->sources.push_back({d.statement_.line, d.statement_.text});
    kernel_->code.push_back(d.out_);
    uses_.push_back(d.use_);
  }

  void finish(const Function& entry) {
    Statement end;
    end.opcode = "exit";
    end.text = "end of " + entry.name;
    end.line = entry.line;
    frames_.push_back({&entry, {}, 0});
    Decoding decoding(*this, end);
    isa::decode(decoding);
    emit(decoding);
    kernel_->dynamicSharedOffset = static_cast<u32>(alignUp(kernel_->staticShared, std::max(16u, dynamicAlign_)));
    if (kernel_->staticShared == 0) kernel_->dynamicSharedOffset = 0;
    for (VirtualRegister& r : registers_) {
      if (r.kind != VirtualRegister::Kind::kDynamicShared) continue;
      r.kind = VirtualRegister::Kind::kConstant;
      r.value += kernel_->dynamicSharedOffset;
    }
    for (Instruction& i : kernel_->code) {
      if (i.flow == Flow::kBranch) i.target = labelAt_[i.target];
    }
    for (auto& table : kernel_->branchTables) {
      for (u32& label : table) label = labelAt_[label];
    }
    markSwapLoops(*kernel_);
    markUndefinedReads(*kernel_, registers_, uses_, isa::undefinedRead);
    allocateRegisters(*kernel_, registers_, uses_);
  }

  const Tree& tree_;
  const std::map<std::string, ModuleSymbol>& globals_;
  std::unique_ptr<Kernel> kernel_;
  std::vector<VirtualRegister> registers_;
  std::map<std::tuple<u32, u32, u64>, u32> interned_;
  std::vector<SlotUse> uses_;
  std::vector<Frame> frames_;
  std::unordered_map<std::string, Symbol> moduleSymbols_;
  std::vector<u32> labelAt_;
  u32 dynamicAlign_ = 1;
};

Decoding::Decoding(Lowering& lowering, const Statement& statement) : lowering_(lowering), statement_(statement) {
  std::string_view rest = statement.opcode;
  size_t dot = rest.find('.');
  opcode_ = rest.substr(0, dot);
  while (dot != std::string_view::npos) {
    rest = rest.substr(dot + 1);
    dot = rest.find('.');
    modifiers_.push_back(rest.substr(0, dot));
  }
  if (!statement.guard.empty()) {
    const Symbol* symbol = lowering_.find(statement.guard);
    if (!symbol || symbol->kind != Symbol::Kind::kRegister) fail("unknown predicate " + statement.guard);
    out_.guard = symbol->virtualRegister;
    out_.guardInvert = statement.guardNegated ? ~0u : 0;
  }
}

const Operand& Decoding::operand(size_t index) const {
  if (index >= statement_.operands.size()) fail("too few operands in '" + statement_.text + "'");
  return statement_.operands[index];
}

bool Decoding::take(std::string_view modifier) {
  auto it = std::find(modifiers_.begin(), modifiers_.end(), modifier);
  if (it == modifiers_.end()) return false;
  modifiers_.erase(it);
  return true;
}

int Decoding::takeOneOf(std::initializer_list<std::string_view> names) {
  int index = 0;
  for (std::string_view name : names) {
    if (take(name)) return index;
    ++index;
  }
  return -1;
}

std::optional<Type> Decoding::takeTypeIfAny() {
  for (size_t k = 0; k < modifiers_.size(); ++k) {
    if (auto type = typeNamed(modifiers_[k])) {
      modifiers_.erase(modifiers_.begin() + static_cast<std::ptrdiff_t>(k));
      return type;
    }
  }
  return std::nullopt;
}

Type Decoding::peekType() const {
  for (std::string_view modifier : modifiers_) {
    if (auto type = typeNamed(modifier)) return *type;
  }
  fail("'" + statement_.opcode + "' lacks a type");
}

int Decoding::takeFirstOf(std::initializer_list<std::string_view> names) {
  for (auto m = modifiers_.begin(); m != modifiers_.end(); ++m) {
    auto name = std::find(names.begin(), names.end(), *m);
    if (name == names.end()) continue;
    modifiers_.erase(m);
    return static_cast<int>(name - names.begin());
  }
  return -1;
}

bool Decoding::hasType(Type one, Type other) const {
  return std::any_of(modifiers_.begin(), modifiers_.end(), [&](std::string_view modifier) {
    const std::optional<Type> type = typeNamed(modifier);
    return type && (*type == one || *type == other);
  });
}

Type Decoding::takeType() {
  if (auto type = takeTypeIfAny()) return *type;
  fail("'" + statement_.opcode + "' lacks a type");
}

void Decoding::takeCacheHints() {
  std::erase_if(modifiers_, [](std::string_view m) {
    return m == "ca" || m == "cg" || m == "cs" || m == "cv" || m == "lu" || m == "wb" || m == "wt" ||
           m.starts_with("L1::") || m.starts_with("L2::");
  });
}

void Decoding::setSlot(u32 slot, u32 virtualRegister, bool isWrite) {
  out_.slot[slot] = virtualRegister;
  (isWrite ? use_.writes : use_.reads) |= 1u << slot;
  // A guarded write keeps the old value of the other lanes, so the register is live before it.
  if (isWrite && out_.guard != kTrue) use_.reads |= 1u << slot;
}

void Decoding::write(u32 slot, const Operand& o, u32 bytes) {
  if (o.kind == Operand::Kind::kName && o.name == "_") return sink(slot, bytes);
  const Symbol* symbol = o.kind == Operand::Kind::kName ? lowering_.find(o.name) : nullptr;
  if (!symbol || symbol->kind != Symbol::Kind::kRegister) fail("'" + o.name + "' is no register to write to");
  setSlot(slot, symbol->virtualRegister, true);
}

void Decoding::read(u32 slot, const Operand& o, Type type) {
  u32 bytes = std::max(2u, bytesOf(type));
  if (o.kind == Operand::Kind::kNumber) {
    if (o.negated) fail("an expression in '" + statement_.text + "'");
    return constant(slot, immediateBits(o, type), bytes);
  }
  if (o.kind != Operand::Kind::kName) fail("operand of an unexpected kind in '" + statement_.text + "'");
  if (o.name == "WARP_SZ") return constant(slot, kWarpSize, bytes);
  if (o.name[0] == '%') {
    for (const SpecialName& special : kSpecialNames) {
      if (special.name == o.name) {
        return setSlot(slot, lowering_.shared(VirtualRegister::Kind::kSpecial, bytes, static_cast<u64>(special.id)),
                       false);
      }
    }
  }
  const Symbol* symbol = lowering_.find(o.name);
  if (!symbol) fail("unknown name " + o.name);
  switch (symbol->kind) {
    case Symbol::Kind::kRegister:
      return setSlot(slot, symbol->virtualRegister, false);
    case Symbol::Kind::kDynamicShared:
      return setSlot(slot, lowering_.shared(VirtualRegister::Kind::kDynamicShared, bytes, static_cast<u64>(o.offset)),
                     false);
    default:
      return constant(slot, symbol->address + static_cast<u64>(o.offset), bytes);
  }
}

u64 Decoding::immediateBits(const Operand& o, Type type) const { return literalBits(o.number, nameOf(type)); }

void Decoding::constant(u32 slot, u64 value, u32 bytes) {
  if (bytes < 8) value &= (u64{1} << (bytes * 8)) - 1;
  setSlot(slot, lowering_.shared(VirtualRegister::Kind::kConstant, bytes, value), false);
}

void Decoding::carry(u32 slot) { out_.slot[slot] = lowering_.shared(VirtualRegister::Kind::kPredicate, 4, kCarry); }

void Decoding::sink(u32 slot, u32 bytes) {
  out_.slot[slot] = lowering_.shared(VirtualRegister::Kind::kSink, std::max(bytes, 4u), 0);
  use_.writes |= 1u << slot;
}

void Decoding::writePredicate(u32 slot, const std::string& name) {
  if (name.empty() || name == "_") {
    out_.slot[slot] = lowering_.shared(VirtualRegister::Kind::kPredicate, 4, kPredicateSink);
    return;
  }
  const Symbol* symbol = lowering_.find(name);
  if (!symbol || symbol->kind != Symbol::Kind::kRegister) fail("unknown predicate " + name);
  setSlot(slot, symbol->virtualRegister, true);
}

void Decoding::readPredicate(u32 slot, u32 invertIndex, const Operand& o) {
  bool inverted = o.negated;
  if (o.kind == Operand::Kind::kNumber) {
    out_.slot[slot] = kTrue;
    inverted ^= std::strtoll(o.number.c_str(), nullptr, 0) == 0;
  } else {
    const Symbol* symbol = lowering_.find(o.name);
    if (!symbol || symbol->kind != Symbol::Kind::kRegister) fail("unknown predicate " + o.name);
    setSlot(slot, symbol->virtualRegister, false);
  }
  out_.invert[invertIndex] = inverted ? ~0u : 0;
}

void Decoding::address(u32 slot, size_t index, Space& space) {
  const Operand& o = operand(index);
  if (o.kind != Operand::Kind::kAddress) fail("expected an address in '" + statement_.text + "'");
  out_.offset = o.offset;
  out_.wideAddress = true;
  if (o.name[0] >= '0' && o.name[0] <= '9') return constant(slot, std::strtoull(o.name.c_str(), nullptr, 0), 8);
  const Symbol* symbol = lowering_.find(o.name);
  if (!symbol) fail("unknown name " + o.name);
  switch (symbol->kind) {
    case Symbol::Kind::kRegister:
      setSlot(slot, symbol->virtualRegister, false);
      out_.wideAddress = lowering_.registers_[symbol->virtualRegister].bytes == 8;
      return;
    case Symbol::Kind::kDynamicShared:
      return setSlot(slot, lowering_.shared(VirtualRegister::Kind::kDynamicShared, 8, 0), false);
    default:
      if (space == Space::kParam && symbol->space == Space::kLocal) space = Space::kLocal;
      return constant(slot, symbol->address, 8);
  }
}

u64 Decoding::immediate(size_t index) const {
  const Operand& o = operand(index);
  if (o.kind != Operand::Kind::kNumber) fail("expected a number in '" + statement_.text + "'");
  return immediateBits(o, Type::kU64);
}

u32 Decoding::registerBytes(const Operand& o, u32 otherwise) const {
  if (o.kind != Operand::Kind::kName) return otherwise;
  const Symbol* symbol = lowering_.find(o.name);
  if (!symbol || symbol->kind != Symbol::Kind::kRegister) return otherwise;
  return lowering_.registers_[symbol->virtualRegister].bytes;
}

bool Decoding::isPredicate(const Operand& o) const {
  if (o.kind != Operand::Kind::kName) return false;
  const Symbol* symbol = lowering_.find(o.name);
  return symbol && symbol->kind == Symbol::Kind::kRegister &&
         lowering_.registers_[symbol->virtualRegister].kind == VirtualRegister::Kind::kPredicate;
}

u32 Decoding::localOffset(const Operand& o) const {
  const Symbol* symbol = lowering_.find(o.name);
  if (!symbol || symbol->kind != Symbol::Kind::kAddress || symbol->space != Space::kLocal) {
    fail("'" + o.name + "' is no parameter variable");
  }
  return static_cast<u32>(symbol->address);
}

void Decoding::branchTo(const std::string& label) {
  out_.flow = Flow::kBranch;
  out_.target = lowering_.findLabel(label, statement_.line);
}

void Decoding::branchIndexed(const std::string& name) {
  auto& scopes = lowering_.frames_.back().scopes;
  for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
    auto it = scope->tables.find(name);
    if (it == scope->tables.end()) continue;
    std::vector<u32> table;
    for (const std::string& label : it->second->labels) table.push_back(lowering_.findLabel(label, statement_.line));
    out_.flow = Flow::kBranchIndexed;
    out_.target = static_cast<u32>(lowering_.kernel_->branchTables.size());
    lowering_.kernel_->branchTables.push_back(std::move(table));
    return;
  }
  fail("unknown branch table " + name);
}

void Decoding::returnFromFunction() {
  if (lowering_.frames_.size() == 1) {
    out_.flow = Flow::kExit;
  } else {
    out_.flow = Flow::kBranch;
    out_.target = lowering_.frames_.back().returnLabel;
  }
}

bool Decoding::isDefined(const std::string& function) const {
  return std::any_of(lowering_.tree_.functions.begin(), lowering_.tree_.functions.end(),
                     [&](const Function& f) { return f.name == function && f.hasBody; });
}

void Decoding::call(const std::string& name, const std::vector<Operand>& results,
                    const std::vector<Operand>& arguments) {
  for (const Function& f : lowering_.tree_.functions) {
    if (f.name != name || !f.hasBody) continue;
    if (out_.guard != kTrue) fail("guarded call");
    if (results.size() != f.results.size() || arguments.size() != f.parameters.size()) {
      fail("call of " + name + " with the wrong number of arguments");
    }
    // The callee's parameters are the caller's variables: both live in the thread's local memory.
    Lowering::Scope scope;
    auto bind = [&](const Variable& formal, const Operand& actual) {
      scope.symbols[formal.name] = {Symbol::Kind::kAddress, 0, Space::kLocal, localOffset(actual)};
    };
    for (size_t k = 0; k < results.size(); ++k) bind(f.results[k], results[k]);
    for (size_t k = 0; k < arguments.size(); ++k) bind(f.parameters[k], arguments[k]);
    lowering_.inlineFunction(f, std::move(scope));
    emits_ = false;
    return;
  }
  fail("call of undefined function " + name);
}

void Decoding::noteSharedAccess(u32 bytes) {
  lowering_.kernel_->sharedGranularity = std::min(lowering_.kernel_->sharedGranularity, bytes);
}

void Decoding::noteGlobalWrite(u32 bytes) {
  lowering_.kernel_->globalGranularity = std::min(lowering_.kernel_->globalGranularity, bytes);
}

void Decoding::finish() const {
  if (modifiers_.empty()) return;
  fail("unknown modifier ." + std::string(modifiers_[0]) + " in '" + statement_.opcode + "'");
}

std::unique_ptr<Module> lower(const Tree& tree, const std::function<ModuleSymbol(const Variable&)>& allocate) {
  auto module = std::make_unique<Module>();
  for (const Variable& v : tree.variables) {
    if (v.space == Space::kGlobal || v.space == Space::kConst) module->symbols[v.name] = allocate(v);
  }
  for (const Function& f : tree.functions) {
    if (f.isEntry && f.hasBody) module->kernels[f.name] = Lowering(tree, module->symbols).run(f);
  }
  return module;
}

}  // namespace softgpu::ptx
