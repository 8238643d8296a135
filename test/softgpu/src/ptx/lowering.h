// Turns the syntax tree of one kernel into decoded instructions: resolves names, inlines every call, and hands each
// statement to the instruction set. Calls are inlined because program counters then order the lanes of a warp
// everywhere; recursion and indirect calls are errors.
#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptx/error.h"
#include "ptx/program.h"
#include "ptx/syntax.h"
#include "ptx/type.h"

namespace softgpu::ptx {

// A register before allocation.
struct VirtualRegister {
  enum class Kind : u8 { kNormal, kPredicate, kConstant, kSpecial, kDynamicShared, kSink };
  Kind kind;
  u8 bytes;
  u64 value = 0;   // of a constant; the id of a special register; what is added to the base of dynamic shared memory
  u32 offset = 0;  // in the register file, once allocated
  std::string name = {};  // as declared
};

// Which slots of an instruction are written and which read.
struct SlotUse {
  u32 writes = 0;
  u32 reads = 0;
};

// Lays out the register file by liveness, and replaces register numbers by byte offsets.
void allocateRegisters(Kernel& kernel, std::vector<VirtualRegister>& registers, const std::vector<SlotUse>& uses);

// The usual loop around atom.cas begins with a plain load of the same place. What others do there meanwhile is no race:
// a stale value fails the comparison.
void markSwapLoops(Kernel& kernel, const std::vector<SlotUse>& uses);

// Makes `reporter` the first to execute each instruction that reads a register which nothing writes.
void markUndefinedReads(Kernel& kernel, const std::vector<VirtualRegister>& registers, const std::vector<SlotUse>& uses,
                        Execute reporter);

class Lowering;

// One statement on its way to one instruction. The instruction set takes modifiers and operands from it; a modifier
// that nobody took is an error.
class Decoding {
 public:
  Decoding(Lowering& lowering, const Statement& statement);

  std::string_view opcode() const { return opcode_; }
  size_t operandCount() const { return statement_.operands.size(); }
  const Operand& operand(size_t index) const;
  Instruction& out() { return out_; }
  [[noreturn]] void fail(const std::string& what) const { throw PtxError(statement_.line, what); }

  // Modifiers. `take` is true when the modifier is there.
  bool take(std::string_view modifier);
  // The index of the first of the names that is there, or -1.
  int takeOneOf(std::initializer_list<std::string_view> names);
  // The same, but the modifier that comes first decides.
  int takeFirstOf(std::initializer_list<std::string_view> names);
  Type takeType();
  Type peekType() const;
  std::optional<Type> takeTypeIfAny();
  // Whether one of the two is among the types.
  bool hasType(Type one, Type other) const;
  // Removes a trailing part such as L2::128B, which only steers caches.
  void takeCacheHints();

  // Operands: `slot` of the instruction gets the operand `index`, a register, constant or special register.
  void write(u32 slot, size_t index, u32 bytes) { write(slot, operand(index), bytes); }
  void write(u32 slot, const Operand& operand, u32 bytes);
  void read(u32 slot, size_t index, Type type) { read(slot, operand(index), type); }
  void read(u32 slot, const Operand& operand, Type type);
  void writePredicate(u32 slot, const std::string& name);
  void readPredicate(u32 slot, u32 invertIndex, const Operand& operand);
  // The condition code register's carry flag, one predicate per thread.
  void carry(u32 slot);
  void constant(u32 slot, u64 value, u32 bytes);
  void sink(u32 slot, u32 bytes);
  // An address [base + offset] into `slot`, `offset` and `wideAddress`. `space` may change from param to local.
  void address(u32 slot, size_t index, Space& space);
  u64 immediate(size_t index) const;
  u64 immediateBits(const Operand& operand, Type type) const;
  // Bytes of the register an operand names; `otherwise` for constants.
  u32 registerBytes(const Operand& operand, u32 otherwise) const;
  bool isPredicate(const Operand& operand) const;

  // The byte offset of a .param or .local variable in the thread's local memory.
  u32 localOffset(const Operand& operand) const;
  void branchTo(const std::string& label);
  void branchIndexed(const std::string& table);
  void returnFromFunction();
  void call(const std::string& name, const std::vector<Operand>& results, const std::vector<Operand>& arguments);
  bool isDefined(const std::string& function) const;
  void noteSharedAccess(u32 bytes);
  void noteGlobalWrite(u32 bytes);
  // Fails for a modifier that nobody took.
  void finish() const;

 private:
  friend class Lowering;
  void setSlot(u32 slot, u32 virtualRegister, bool isWrite);

  Lowering& lowering_;
  const Statement& statement_;
  std::string_view opcode_;
  std::vector<std::string_view> modifiers_;
  Instruction out_;
  SlotUse use_;
  bool emits_ = true;
};

// Decodes every kernel of a tree. `allocate` gives device memory for a .global or .const variable.
std::unique_ptr<Module> lower(const Tree& tree, const std::function<ModuleSymbol(const Variable&)>& allocate);

}  // namespace softgpu::ptx
