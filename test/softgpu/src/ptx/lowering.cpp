// Name resolution, scopes, labels and call inlining. What an instruction means is the instruction set's business.
#include <algorithm>

#include "isa/isa.h"
#include "ptx/kernel_lowering.h"
#include "ptx/parser.h"

namespace softgpu::ptx {
namespace {

constexpr u32 kNoInstruction = ~0u;

}  // namespace

std::unique_ptr<Kernel> Lowering::run(const Function& entry) {
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

// The body between the current position and its end; labels are known before their use.
void Lowering::declareLabels(const std::vector<Item>& body, size_t from, Scope& scope) {
  int depth = 0;
  for (size_t k = from; k < body.size() && depth >= 0; ++k) {
    if (std::holds_alternative<ScopeBegin>(body[k])) ++depth;
    if (std::holds_alternative<ScopeEnd>(body[k])) --depth;
    if (depth != 0) continue;
    if (auto* label = std::get_if<Label>(&body[k])) scope.labels[label->name] = newLabel();
    if (auto* table = std::get_if<BranchTargets>(&body[k])) scope.tables[table->name] = table;
  }
}

void Lowering::inlineFunction(const Function& function, Scope parameters) {
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

void Lowering::item(const std::vector<Item>& body, size_t k) {
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

void Lowering::declare(const RegisterDeclaration& r) {
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

void Lowering::declare(const Variable& v) {
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

u64 Lowering::allocateLocal(const Variable& v) {
  u64 at = alignUp(kernel_->localBytes, v.align);
  kernel_->localBytes = static_cast<u32>(at + v.size);
  return at;
}

Symbol Lowering::sharedSymbol(const Variable& v) {
  if (v.isExtern && v.size == 0) {
    dynamicAlign_ = std::max(dynamicAlign_, v.align);
    return {Symbol::Kind::kDynamicShared, 0, Space::kShared, 0};
  }
  u64 at = alignUp(kernel_->staticShared, v.align);
  kernel_->staticShared = static_cast<u32>(at + v.size);
  return {Symbol::Kind::kAddress, 0, Space::kShared, at};
}

const Symbol* Lowering::find(const std::string& name) {
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

u32 Lowering::findLabel(const std::string& name, u32 line) {
  auto& scopes = frames_.back().scopes;
  for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
    auto it = scope->labels.find(name);
    if (it != scope->labels.end()) return it->second;
  }
  throw PtxError(line, "unknown label " + name);
}

u32 Lowering::newLabel() {
  labelAt_.push_back(kNoInstruction);
  return static_cast<u32>(labelAt_.size() - 1);
}
u32 Lowering::newRegister(VirtualRegister::Kind kind, u32 bytes, u64 value) {
  registers_.push_back({kind, static_cast<u8>(bytes), value});
  return static_cast<u32>(registers_.size() - 1);
}
u32 Lowering::shared(VirtualRegister::Kind kind, u32 bytes, u64 value) {
  auto [it, added] = interned_.try_emplace({static_cast<u32>(kind), bytes, value}, 0);
  if (added) it->second = newRegister(kind, bytes, value);
  return it->second;
}

void Lowering::emit(Decoding& d) {
  d.out_.source = static_cast<u32>(kernel_->sources.size());
  kernel_->sources.push_back({d.statement_.line, d.statement_.text});
  kernel_->code.push_back(d.out_);
  uses_.push_back(d.use_);
}

void Lowering::finish(const Function& entry) {
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
  markSwapLoops(*kernel_, uses_);
  markUndefinedReads(*kernel_, registers_, uses_, isa::undefinedRead);
  allocateRegisters(*kernel_, registers_, uses_);
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
