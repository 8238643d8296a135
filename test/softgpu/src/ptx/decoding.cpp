// One statement on its way to one instruction: modifiers taken, operands resolved to registers, constants and
// addresses.
#include <algorithm>
#include <cstdlib>

#include "ptx/kernel_lowering.h"
#include "ptx/parser.h"

namespace softgpu::ptx {
namespace {

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

// Predicates of the kernel that no statement names.
constexpr u64 kPredicateSink = 1, kCarry = 2;

}  // namespace

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

}  // namespace softgpu::ptx
