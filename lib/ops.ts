// The stages of a MoE layer by themselves, for experts of one's own and for benchmarks. T tokens, H hiddenSize, E experts,
// K choices, R = plan.maxRows.
import { native, type PlanHandle } from './binding.js';
import { checkInteger, checkOptions, invalid } from './checks.js';
import { nativeCapacity, nativeRouter } from './config.js';
import { type CapacityConfig, resolveCapacity } from './config-capacity.js';
import { type RouterConfig, resolveRouter, routerOptions } from './config-router.js';
import { rejectUnsupportedCapacity, rejectUnsupportedRouter } from './config-unsupported.js';
import type { DeviceContext } from './context.js';
import { MoEError } from './errors.js';
import { Scoped } from './scope.js';
import { checkRows, checkShaped, checkTensor, Tensor, tensorContext } from './tensor.js';

const routeOptions = new Set([...routerOptions, 'topK']);

function matrixShape(name: string, tensor: Tensor, symbols: string, dimensions: number): readonly number[] {
  if (tensor.shape.length === dimensions) return tensor.shape;
  throw invalid(name, `shape ${symbols}`, tensor.shape, 'ERR_SHAPE');
}

export interface Route {
  /** [T,K] int32, the best expert first. */
  indices: Tensor;
  /** [T,K] float32. */
  weights: Tensor;
  /** [T,E] float32. */
  logits: Tensor;
  /** Gradients of input and weight for that of the weights [T,K]. */
  backward(gradWeights: Tensor): { input: Tensor; weight: Tensor };
}

/** input [..., H] and a router's weight [E,H] → which experts each token goes to, and with what weight. */
export function route(input: Tensor, weight: Tensor, config: { topK: number } & RouterConfig): Route {
  const context = tensorContext('input', input);
  const inputHandle = checkTensor('input', input, context, 'float32');
  const weightHandle = checkTensor('weight', weight, context, 'float32');
  const [experts, hiddenSize] = matrixShape('weight', weight, '[E,H]', 2) as [number, number];
  if (experts === 0 || hiddenSize === 0)
    throw invalid('weight', 'at least one expert and one feature', weight.shape, 'ERR_SHAPE');
  const tokens = checkRows('input', input, hiddenSize, 'H');
  const { topK, ...options } = checkOptions('config', config, routeOptions);
  const choices = checkInteger('config.topK', topK, 1, experts, 'E');
  const router = resolveRouter('config', options, experts);
  rejectUnsupportedRouter('config', router);
  if (router.bias) throw invalid('config.bias', 'no bias: ops.route has no parameter for one', true);
  const shape = { tokens, hiddenSize, numExperts: experts, topK: choices };
  const settings = nativeRouter(router);
  const made = native.opsRoute(inputHandle, weightHandle, shape, settings);
  const indices = new Tensor(context, made.indices, [tokens, choices], 'int32');
  const weights = new Tensor(context, made.weights, [tokens, choices], 'float32');
  const logits = new Tensor(context, made.logits, [tokens, experts], 'float32');
  return {
    indices,
    weights,
    logits,
    backward(gradWeights) {
      const gradHandle = checkShaped('gradWeights', gradWeights, context, 'float32', [tokens, choices], '[T,K]');
      const saved = {
        indices: checkTensor('route.indices', indices, context, 'int32'),
        logits: checkTensor('route.logits', logits, context, 'float32'),
        scores: made.scores,
      };
      const live = [
        checkTensor('input', input, context, 'float32'),
        checkTensor('weight', weight, context, 'float32'),
      ] as const;
      const gradients = native.opsRouteBackward(...live, shape, settings, saved, gradHandle);
      return {
        input: new Tensor(context, gradients.input, input.shape, 'float32'),
        weight: new Tensor(context, gradients.weight, weight.shape, 'float32'),
      };
    },
  };
}

/** Which rows each expert computes: the kept assignments sorted by expert, then token, then choice. Made by plan(). */
export class DispatchPlan extends Scoped {
  /** R: the most rows that these shapes and this capacity allow. */
  readonly maxRows: number;
  /** [E+1] int32, the first row of each expert; the last is the number of rows in use. */
  readonly offsets: Tensor;
  /** [R] int32, the source token of each row, -1 past the end. */
  readonly tokens: Tensor;
  readonly #context: DeviceContext;
  readonly #handle: PlanHandle;
  readonly #sizes: { tokens: number; experts: number; choices: number };
  #disposed = false;

  /** @internal */
  constructor(
    context: DeviceContext,
    made: ReturnType<typeof native.opsPlan>,
    sizes: { tokens: number; experts: number; choices: number },
  ) {
    super();
    this.#context = context;
    this.#handle = made.plan;
    this.#sizes = sizes;
    this.maxRows = made.maxRows;
    this.offsets = new Tensor(context, made.offsets, [sizes.experts + 1], 'int32', this);
    this.tokens = new Tensor(context, made.tokens, [made.maxRows], 'int32', this);
    context.track(this);
  }

  /** A host copy of `offsets`. */
  async expertRows(): Promise<Int32Array> {
    DispatchPlan.open('expertRows()', this, this.#context);
    return (await this.offsets.data()) as Int32Array;
  }

  /** May be called again. Tensors made with the plan stay. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.scope?.remove(this);
    for (const tensor of [this.offsets, this.tokens]) if (tensor.owner === this) tensor.dispose();
    native.planRelease(this.#handle);
  }

  /** @internal */
  static open(name: string, value: unknown, context: DeviceContext): { handle: PlanHandle } & DispatchPlan['sizes'] {
    if (!(typeof value === 'object' && value !== null && #handle in value))
      throw invalid(name, 'a plan made by ops.plan()', value);
    if (value.#disposed) throw new MoEError('ERR_DISPOSED', `${name}: the plan has been disposed`);
    value.#context.handle(name);
    if (value.#context !== context)
      throw new MoEError(
        'ERR_DEVICE_MISMATCH',
        `${name}: expected a plan of the tensors' device, got one of another device`,
      );
    return { handle: value.#handle, ...value.#sizes };
  }

  /** @internal */
  get sizes(): { tokens: number; experts: number; choices: number } {
    return this.#sizes;
  }
}

/**
 * indices int32 and weights float32, both [T,K] → the plan that dispatch, combine and groupedGemm follow. -1 is no
 * assignment; any other index outside 0 … numExperts - 1 poisons the plan. Priority 'score' goes by `weights`.
 */
export function plan(indices: Tensor, weights: Tensor, numExperts: number, capacity?: CapacityConfig): DispatchPlan {
  const context = tensorContext('indices', indices);
  const indicesHandle = checkTensor('indices', indices, context, 'int32');
  const [tokens, choices] = matrixShape('indices', indices, '[T,K]', 2) as [number, number];
  const weightsHandle = checkShaped('weights', weights, context, 'float32', indices.shape, "the indices'");
  const experts = checkInteger('numExperts', numExperts, 1, 2 ** 31 - 2);
  const resolved = resolveCapacity('capacity', capacity);
  rejectUnsupportedCapacity('capacity', resolved);
  const shape = { tokens, numExperts: experts, topK: choices };
  const made = native.opsPlan(indicesHandle, weightsHandle, shape, nativeCapacity(resolved));
  return new DispatchPlan(context, made, { tokens, experts, choices });
}

/** [T,H] → rows sorted by expert [R,H]; rows past offsets[E] are zero. */
export function dispatch(input: Tensor, plan: DispatchPlan): { rows: Tensor; backward(gradRows: Tensor): Tensor } {
  const context = tensorContext('input', input);
  const handle = checkTensor('input', input, context, 'float32');
  const { handle: planHandle, tokens } = DispatchPlan.open('plan', plan, context);
  const hiddenSize = matrixShape('input', input, '[T,H]', 2)[1] as number;
  checkShaped('input', input, context, 'float32', [tokens, hiddenSize], '[T,H]');
  const shape = [plan.maxRows, hiddenSize];
  return {
    rows: new Tensor(context, native.opsDispatch(handle, planHandle, hiddenSize), shape, 'float32'),
    backward(gradRows) {
      const gradHandle = checkShaped('gradRows', gradRows, context, 'float32', shape, '[R,H]');
      const live = DispatchPlan.open('plan', plan, context).handle;
      return new Tensor(
        context,
        native.opsDispatchBackward(gradHandle, live, hiddenSize),
        [tokens, hiddenSize],
        'float32',
      );
    },
  };
}

/** rows [R,H] → the weighted sum per token [T,H], in order of choice, with the weights that the plan was made of. */
export function combine(
  rows: Tensor,
  plan: DispatchPlan,
): { output: Tensor; backward(grad: Tensor): { rows: Tensor; weights: Tensor } } {
  const context = tensorContext('rows', rows);
  const handle = checkTensor('rows', rows, context, 'float32');
  const { handle: planHandle, tokens, choices } = DispatchPlan.open('plan', plan, context);
  const hiddenSize = matrixShape('rows', rows, '[R,H]', 2)[1] as number;
  checkShaped('rows', rows, context, 'float32', [plan.maxRows, hiddenSize], '[R,H]');
  return {
    output: new Tensor(context, native.opsCombine(handle, planHandle, hiddenSize), [tokens, hiddenSize], 'float32'),
    backward(grad) {
      const gradHandle = checkShaped('grad', grad, context, 'float32', [tokens, hiddenSize], '[T,H]');
      const rowsHandle = checkTensor('rows', rows, context, 'float32');
      const live = DispatchPlan.open('plan', plan, context).handle;
      const gradients = native.opsCombineBackward(rowsHandle, gradHandle, live, hiddenSize);
      return {
        rows: new Tensor(context, gradients.rows, rows.shape, 'float32'),
        weights: new Tensor(context, gradients.weights, [tokens, choices], 'float32'),
      };
    },
  };
}

/** rows [R,in], grouped by plan.offsets, times weight [E,out,in] → [R,out]; rows past offsets[E] are zero. */
export function groupedGemm(
  rows: Tensor,
  weight: Tensor,
  plan: DispatchPlan,
): { output: Tensor; backward(grad: Tensor): { rows: Tensor; weight: Tensor } } {
  const context = tensorContext('rows', rows);
  const handle = checkTensor('rows', rows, context, 'float32');
  const weightHandle = checkTensor('weight', weight, context, 'float32');
  const { handle: planHandle, experts } = DispatchPlan.open('plan', plan, context);
  const [, out, inFeatures] = matrixShape('weight', weight, '[E,out,in]', 3) as [number, number, number];
  checkShaped('weight', weight, context, 'float32', [experts, out, inFeatures], '[E,out,in]');
  checkShaped('rows', rows, context, 'float32', [plan.maxRows, inFeatures], '[R,in]');
  if (out === 0 || inFeatures === 0)
    throw invalid('weight', 'at least one feature on either side', weight.shape, 'ERR_SHAPE');
  const made = native.opsGroupedGemm(handle, weightHandle, planHandle, inFeatures, out);
  return {
    output: new Tensor(context, made, [plan.maxRows, out], 'float32'),
    backward(grad) {
      const gradHandle = checkShaped('grad', grad, context, 'float32', [plan.maxRows, out], '[R,out]');
      const live = [
        checkTensor('rows', rows, context, 'float32'),
        checkTensor('weight', weight, context, 'float32'),
      ] as const;
      const planLive = DispatchPlan.open('plan', plan, context).handle;
      const gradients = native.opsGroupedGemmBackward(...live, gradHandle, planLive, inFeatures, out);
      return {
        rows: new Tensor(context, gradients.rows, rows.shape, 'float32'),
        weight: new Tensor(context, gradients.weight, weight.shape, 'float32'),
      };
    },
  };
}
