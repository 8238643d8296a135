// One kernel being lowered: its scopes, labels, registers and the code so far. Only for the lowering and its Decoding.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "ptx/lowering.h"

namespace softgpu::ptx {

// Virtual register 0 is the predicate that is always true.
constexpr u32 kTrue = 0;

struct Symbol {
  enum class Kind : u8 { kRegister, kAddress, kKernelParameter, kDynamicShared };
  Kind kind;
  u32 virtualRegister = 0;
  Space space = Space::kGeneric;
  u64 address = 0;
};

class Lowering {
 public:
  Lowering(const Tree& tree, const std::map<std::string, ModuleSymbol>& globals) : tree_(tree), globals_(globals) {}

  std::unique_ptr<Kernel> run(const Function& entry);

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

  void declareLabels(const std::vector<Item>& body, size_t from, Scope& scope);
  void inlineFunction(const Function& function, Scope parameters);
  void item(const std::vector<Item>& body, size_t k);
  void declare(const RegisterDeclaration& r);
  void declare(const Variable& v);
  u64 allocateLocal(const Variable& v);
  Symbol sharedSymbol(const Variable& v);
  const Symbol* find(const std::string& name);
  u32 findLabel(const std::string& name, u32 line);
  u32 newLabel();
  u32 newRegister(VirtualRegister::Kind kind, u32 bytes, u64 value = 0);
  u32 shared(VirtualRegister::Kind kind, u32 bytes, u64 value);
  void emit(Decoding& d);
  void finish(const Function& entry);

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

}  // namespace softgpu::ptx
