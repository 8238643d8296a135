// The dense layers around a MoE layer: each forward queues its work and answers a pass that holds what its backward
// needs.
#pragma once

#include <vector>

#include "parameter.h"
#include "watched.h"

namespace moe {

/// One forward of a module. backward() runs once.
class Pass {
 public:
  virtual ~Pass() = default;

  /// The gradient of the input; empty where the input has none. `scale` counts for cross-entropy alone, which takes no
  /// gradient of its output.
  TensorPtr backward(const TensorPtr& gradOutput, float scale);

  const TensorPtr& output() const { return output_; }

 protected:
  explicit Pass(Device& device) : device_(device.shared_from_this()) {}
  virtual TensorPtr queueBackward(const TensorPtr& gradOutput, float scale) = 0;
  /// Drops what forward kept.
  virtual void release() = 0;
  /// backward() refuses to run once this tensor is written again.
  void watch(const TensorPtr& tensor) { watched_.add(tensor); }

  std::shared_ptr<Device> device_;
  TensorPtr output_;

 private:
  Watched watched_;
  bool spent_ = false;
};

/// output = input · weightᵀ + bias.
class LinearPass final : public Pass {
 public:
  LinearPass(const TensorPtr& input, ParameterPtr weight, ParameterPtr bias, int in, int out);

 private:
  TensorPtr queueBackward(const TensorPtr& gradOutput, float scale) override;
  void release() override { input_.reset(); }

  TensorPtr input_;  // [R,in]
  ParameterPtr weight_, bias_;
  int in_, out_;
  int64_t rows_;
};

class EmbeddingPass final : public Pass {
 public:
  EmbeddingPass(const TensorPtr& indices, ParameterPtr weight, int count, int size);

 private:
  TensorPtr queueBackward(const TensorPtr& gradOutput, float scale) override;
  void release() override { indices_.reset(); }

  TensorPtr indices_;  // [N]
  ParameterPtr weight_;
  int count_, size_;
};

class RmsNormPass final : public Pass {
 public:
  RmsNormPass(const TensorPtr& input, ParameterPtr weight, int size, float epsilon);

 private:
  TensorPtr queueBackward(const TensorPtr& gradOutput, float scale) override;
  void release() override {
    input_.reset();
    inverseRms_.reset();
  }

  TensorPtr input_, inverseRms_;  // [N,size], [N]
  ParameterPtr weight_;
  int size_;
  int64_t rows_;
};

/// The output is the scalar loss.
class CrossEntropyPass final : public Pass {
 public:
  CrossEntropyPass(const TensorPtr& logits, const TensorPtr& targets, int classes);

 private:
  TensorPtr queueBackward(const TensorPtr& gradOutput, float scale) override;
  void release() override {
    logits_.reset();
    targets_.reset();
    logSumExp_.reset();
    meanAndCount_.reset();
  }

  TensorPtr logits_, targets_, logSumExp_, meanAndCount_;
  int classes_;
  int64_t rows_;
};

TensorPtr add(const TensorPtr& a, const TensorPtr& b);
TensorPtr clone(const TensorPtr& tensor);
TensorPtr convert(const TensorPtr& tensor, DType dtype);
/// Of the same size; replaces what `output` holds.
void convertInto(const TensorPtr& tensor, const TensorPtr& output);
TensorPtr randomNormal(Device& device, DType dtype, int64_t size, uint64_t seed, uint32_t purpose, float std);
TensorPtr filled(Device& device, DType dtype, int64_t size, float value);

}  // namespace moe
