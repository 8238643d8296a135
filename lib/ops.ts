// The stages of a MoE layer by themselves, for experts of one's own and for benchmarks. Nothing is accumulated and nothing
// is saved: a backward works on the tensors its forward took and gave, which must still be there and unchanged.
import { native, type PlanHandle, type TensorHandle } from './binding.js';
import { checkInteger, checkOptions, checkSize, describe, invalid } from './checks.js';
import { nativeCapacity, nativeRouter } from './config.js';
import { type CapacityConfig, resolveCapacity } from './config-capacity.js';
import { type RouterConfig, resolveRouter, routerOptions } from './config-router.js';
import { rejectUnsupportedCapacity, rejectUnsupportedRouter } from './config-unsupported.js';
import type { DeviceContext } from './context.js';
import { MoEError } from './errors.js';
import { OwningPass } from './pass.js';
import { checkFloatTensor, checkShaped, checkTensor, Tensor, tensorContext } from './tensor.js';

const routeOptions = new Set([...routerOptions, 'topK']);

/** A tensor with that many dimensions, which the answer names. */
function checkRank(name: string, tensor: Tensor, symbols: string, rank: number): readonly number[] {
  if (tensor.shape.length === rank) return tensor.shape;
  throw new MoEError('ERR_SHAPE', `${name}: expected shape ${symbols}, got ${describe(tensor.shape)}`);
}

// ---------------------------------------------------------------- route

/**
 * input [T,H] of a float dtype and weight [E,H] float32 → indices [T,K] int32, weights [T,K] and logits [T,E] float32.
 * `backward` turns dL/dweights [T,K] into the gradients of both. `config` is topK and a router's options without bias,
 * noise, selection bias and allowed experts, which need a layer; 'sinkhorn' balances, as a layer does in training.
 */
export function route(
  input: Tensor,
  weight: Tensor,
  config: { topK: number } & RouterConfig,
): {
  indices: Tensor;
  weights: Tensor;
  logits: Tensor;
  backward(gradWeights: Tensor): { input: Tensor; weight: Tensor };
} {
  const context = tensorContext('input', input);
  const dtype = checkFloatTensor('input', input, context);
  checkTensor('weight', weight, context, 'float32');
  const [tokens, hiddenSize] = checkRank('input', input, '[T,H]', 2) as [number, number];
  const [numExperts] = checkRank('weight', weight, '[E,H]', 2) as [number, number];
  checkSize('input.shape[1]', hiddenSize);
  checkSize('weight.shape[0]', numExperts);
  context.checkExperts('weight.shape[0]', numExperts);
  checkShaped('weight', weight, context, 'float32', [numExperts, hiddenSize], '[E,H]');

  const { topK, ...rest } = checkOptions('config', config, routeOptions);
  const options = resolveRouter('config', rest, numExperts);
  if (options.bias) throw invalid('config.bias', 'false: a route by itself takes no bias', true);
  rejectUnsupportedRouter('config', options);
  const shape = {
    tokens,
    hiddenSize,
    numExperts,
    topK: checkInteger('config.topK', topK, 1, numExperts, 'numExperts'),
  };
  const router = nativeRouter(options);

  const handles = (): [TensorHandle, TensorHandle] => [
    checkTensor('input', input, context, dtype),
    checkTensor('weight', weight, context, 'float32'),
  ];
  const made = native.opsRoute(...handles(), shape, router);
  const choices = [tokens, shape.topK];
  return {
    indices: new Tensor(context, made.indices, choices, 'int32'),
    weights: new Tensor(context, made.weights, choices, 'float32'),
    logits: new Tensor(context, made.logits, [tokens, numExperts], 'float32'),
    backward(gradWeights) {
      const gradient = checkShaped('gradWeights', gradWeights, context, 'float32', choices, '[T,K]');
      const gradients = native.opsRouteBackward(...handles(), shape, router, made, gradient);
      return {
        input: new Tensor(context, gradients.input, input.shape, dtype),
        weight: new Tensor(context, gradients.weight, weight.shape, 'float32'),
      };
    },
  };
}

// ---------------------------------------------------------------- plan

/** Which rows each expert computes. Its tensors go with it. */
export class DispatchPlan extends OwningPass {
  /** R, the most rows that the plan can have; known from shapes alone. */
  readonly maxRows: number;
  /** [E+1] int32, the first row of each expert; the last is the number of rows in use. */
  readonly offsets: Tensor;
  /** [R] int32, the source token of each row, -1 past the end. */
  readonly tokens: Tensor;
  /** @internal */
  readonly shape: { readonly tokens: number; readonly numExperts: number; readonly topK: number };
  readonly #context: DeviceContext;
  readonly #handle: PlanHandle;

  /** @internal */
  constructor(context: DeviceContext, made: ReturnType<typeof native.opsPlan>, shape: DispatchPlan['shape']) {
    super();
    this.#context = context;
    this.#handle = made.plan;
    this.maxRows = made.maxRows;
    this.shape = shape;
    this.offsets = this.own(new Tensor(context, made.offsets, [shape.numExperts + 1], 'int32', this));
    this.tokens = this.own(new Tensor(context, made.tokens, [made.maxRows], 'int32', this));
    context.track(this);
  }

  /** A copy of `offsets` in JavaScript. */
  async expertRows(): Promise<Int32Array> {
    this.checkOpen(this.#context, 'expertRows()');
    return (await this.offsets.data()) as Int32Array;
  }

  protected override releaseHandle(): void {
    native.planRelease(this.#handle);
  }

  /** @internal */
  static handleOf(plan: unknown, context: DeviceContext): PlanHandle {
    if (!(typeof plan === 'object' && plan !== null && #handle in plan))
      throw invalid('plan', 'a plan made by ops.plan()', plan);
    plan.#context.handle('plan');
    if (plan.isDisposed) throw new MoEError('ERR_DISPOSED', 'plan: the plan has been disposed');
    if (plan.#context !== context)
      throw new MoEError(
        'ERR_DEVICE_MISMATCH',
        'plan: expected a plan of the device of the tensors, got one of another device',
      );
    return plan.#handle;
  }
}

/**
 * indices [T,K] int32 and weights [T,K] float32 → the plan of their dispatch. An index of -1 is no assignment; any other
 * outside [0, E) fails when the work is done. With priority 'score' the weights are the scores. Default: dropless.
 */
export function plan(indices: Tensor, weights: Tensor, numExperts: number, capacity?: CapacityConfig): DispatchPlan {
  const context = tensorContext('indices', indices);
  const choices = checkTensor('indices', indices, context, 'int32');
  const [tokens, topK] = checkRank('indices', indices, '[T,K]', 2) as [number, number];
  checkSize('indices.shape[1]', topK);
  const gates = checkShaped('weights', weights, context, 'float32', indices.shape, '[T,K]');
  const limit = resolveCapacity('capacity', capacity);
  rejectUnsupportedCapacity('capacity', limit);
  const shape = { tokens, topK, numExperts: checkSize('numExperts', numExperts) };
  context.checkExperts('numExperts', numExperts);
  return new DispatchPlan(context, native.opsPlan(choices, gates, shape, nativeCapacity(limit)), shape);
}

// ---------------------------------------------------------------- dispatch and combine

/** input [T,H] of a float dtype → rows [R,H] sorted by expert, zero past the plan's end. */
export function dispatch(input: Tensor, plan: DispatchPlan): { rows: Tensor; backward(gradRows: Tensor): Tensor } {
  const context = tensorContext('input', input);
  const dtype = checkFloatTensor('input', input, context);
  const handle = checkTensor('input', input, context, dtype);
  const planned = DispatchPlan.handleOf(plan, context);
  const hiddenSize = checkSize('input.shape[1]', checkRank('input', input, '[T,H]', 2)[1]);
  const shape = [plan.shape.tokens, hiddenSize];
  checkShaped('input', input, context, dtype, shape, '[T,H]');
  const rowsShape = [plan.maxRows, hiddenSize];
  return {
    rows: new Tensor(context, native.opsDispatch(handle, planned, hiddenSize), rowsShape, dtype),
    backward(gradRows) {
      const gradient = checkShaped('gradRows', gradRows, context, dtype, rowsShape, '[R,H]');
      const made = native.opsDispatchBackward(gradient, DispatchPlan.handleOf(plan, context), hiddenSize);
      return new Tensor(context, made, shape, dtype);
    },
  };
}

/** rows [R,H] of a float dtype → output [T,H], the sum of each token's rows times the plan's weights. */
export function combine(
  rows: Tensor,
  plan: DispatchPlan,
): { output: Tensor; backward(grad: Tensor): { rows: Tensor; weights: Tensor } } {
  const context = tensorContext('rows', rows);
  const dtype = checkFloatTensor('rows', rows, context);
  const planned = DispatchPlan.handleOf(plan, context);
  const hiddenSize = checkSize('rows.shape[1]', checkRank('rows', rows, '[R,H]', 2)[1]);
  const handle = checkShaped('rows', rows, context, dtype, [plan.maxRows, hiddenSize], '[R,H]');
  const { tokens, topK } = plan.shape;
  const shape = [tokens, hiddenSize];
  return {
    output: new Tensor(context, native.opsCombine(handle, planned, hiddenSize), shape, dtype),
    backward(grad) {
      const gradients = native.opsCombineBackward(
        checkTensor('rows', rows, context, dtype),
        checkShaped('grad', grad, context, dtype, shape, '[T,H]'),
        DispatchPlan.handleOf(plan, context),
        hiddenSize,
      );
      return {
        rows: new Tensor(context, gradients.rows, rows.shape, dtype),
        weights: new Tensor(context, gradients.weights, [tokens, topK], 'float32'),
      };
    },
  };
}

// ---------------------------------------------------------------- grouped GEMM

/**
 * rows [R,in] grouped by plan.offsets times weight [E,out,in] of the same float dtype → output [R,out], zero past the plan's
 * end. The gradient of weight is float32.
 */
export function groupedGemm(
  rows: Tensor,
  weight: Tensor,
  plan: DispatchPlan,
): { output: Tensor; backward(grad: Tensor): { rows: Tensor; weight: Tensor } } {
  const context = tensorContext('rows', rows);
  const dtype = checkFloatTensor('rows', rows, context);
  checkTensor('weight', weight, context, dtype);
  DispatchPlan.handleOf(plan, context);
  const inFeatures = checkSize('rows.shape[1]', checkRank('rows', rows, '[R,in]', 2)[1]);
  const outFeatures = checkSize('weight.shape[1]', checkRank('weight', weight, '[E,out,in]', 3)[1]);
  checkShaped('rows', rows, context, dtype, [plan.maxRows, inFeatures], '[R,in]');
  checkShaped('weight', weight, context, dtype, [plan.shape.numExperts, outFeatures, inFeatures], '[E,out,in]');

  const operands = (): [TensorHandle, TensorHandle] => [
    checkTensor('rows', rows, context, dtype),
    checkTensor('weight', weight, context, dtype),
  ];
  const shape = [plan.maxRows, outFeatures];
  const output = native.opsGroupedGemm(...operands(), DispatchPlan.handleOf(plan, context), inFeatures, outFeatures);
  return {
    output: new Tensor(context, output, shape, dtype),
    backward(grad) {
      const gradient = checkShaped('grad', grad, context, dtype, shape, '[R,out]');
      const planned = DispatchPlan.handleOf(plan, context);
      const gradients = native.opsGroupedGemmBackward(...operands(), gradient, planned, inFeatures, outFeatures);
      return {
        rows: new Tensor(context, gradients.rows, rows.shape, dtype),
        weight: new Tensor(context, gradients.weight, weight.shape, 'float32'),
      };
    },
  };
}
