// The only file that loads the addon, and the hand-written type of everything it exports. What the functions take is
// already validated: they check what memory safety needs and nothing else.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import bindings from 'bindings';
import { MoEError, type MoEErrorCode } from './errors.js';

/** Handles are opaque; each is kept alive by the JavaScript object that owns it and freed by release or by the collector. */
declare const brand: unique symbol;
type Handle<Name extends string> = { readonly [brand]: Name };
export type DeviceHandle = Handle<'device'>;
export type TensorHandle = Handle<'tensor'>;
export type ParameterHandle = Handle<'parameter'>;
export type LayerHandle = Handle<'layer'>;
export type MoEPassHandle = Handle<'moe-pass'>;
export type PassHandle = Handle<'pass'>;
export type AdamWHandle = Handle<'adamw'>;
export type GraphHandle = Handle<'graph'>;
export type PlanHandle = Handle<'plan'>;

/** What a device can do at best. */
export interface DeviceLimits {
  flopsPerSecond: number;
  bfloat16FlopsPerSecond: number;
  readBytesPerSecond: number;
}

/** What one step of AdamW takes; maxGradNorm 0: no clipping. */
export type AdamWScalars = [
  learningRate: number,
  beta1: number,
  beta2: number,
  epsilon: number,
  weightDecay: number,
  maxGradNorm: number,
];

/** What one kernel or stage took. */
export interface KernelTime {
  kernel: string;
  milliseconds: number;
}

/** The numbers of native/shared/dtype.h's DType. */
export const dtypeCode = { float32: 0, bfloat16: 1, float16: 2, int32: 3 } as const;
/** Uint16Array: the bits of 16-bit floats; a Float32Array reads and writes any float dtype. */
export type HostArray = Float32Array | Int32Array | Uint16Array;

/** The numbers of native/shared/options.h's enums. */
export const activationCode = {
  relu: 0,
  gelu: 1,
  'gelu-tanh': 2,
  silu: 3,
  swiglu: 4,
  geglu: 5,
  'geglu-tanh': 6,
  reglu: 7,
  'clamped-swiglu': 8,
} as const;

export const routerCode = { 'top-k': 0, 'expert-choice': 1, sinkhorn: 2, hash: 3, random: 4 } as const;
export const scoringCode = { softmax: 0, sigmoid: 1 } as const;
export const noiseCode = { none: 0, jitter: 1, gaussian: 2, learned: 3, gumbel: 4 } as const;
export const countsCode = { all: 0, 'first-choice': 1, unbiased: 2 } as const;

export interface NativeRouter {
  type: number;
  scoring: number;
  selectByLogits: boolean;
  renormalize: boolean;
  normP: number;
  normEpsilon: number;
  weightScale: number;
  temperature: number;
  noise: number;
  /** Jitter's epsilon, gaussian noise's deviation. */
  noiseScale: number;
  /** 0: no groups. */
  groupCount: number;
  groupKeep: number;
  groupsByTop2Sum: boolean;
  renormalizeAfterDrop: boolean;
  /** 0: the second choice is always kept. */
  secondThreshold: number;
}

export interface NativeCapacity {
  /** false: dropless, the rest is ignored. */
  limited: boolean;
  /** ceil(factor * K * T / E) when slots is 0, else slots; then at least min, rounded up to multipleOf. */
  factor: number;
  evalFactor: number;
  slots: number;
  min: number;
  multipleOf: number;
  /** Share of all slots. */
  buffer: number;
  /** 0: the whole batch. */
  groupSize: number;
  /** The factor is the most there may be. */
  dynamic: boolean;
  targetDropRate: number;
  priority: number;
  overflow: number;
  firstChoicesFirst: boolean;
}

export interface NativeLosses {
  /** NaN: the loss is off. */
  loadBalance: number;
  importance: number;
  load: number;
  z: number;
  counts: number;
  /** 0: one scope, the batch. */
  sequenceLength: number;
  /** 0: over the experts. */
  expertGroups: number;
  importanceFromSoftmax: boolean;
  loadThresholdKth: boolean;
}

export interface NativeLayerConfig {
  /** Of everything but the router. */
  dtype: number;
  hiddenSize: number;
  ffnSize: number;
  numExperts: number;
  topK: number;
  gates: number;
  router: NativeRouter;
  capacity: NativeCapacity;
  losses: NativeLosses;
  activation: number;
  activationAlpha: number;
  activationLimit: number;
  /** The routing weight multiplies the expert's input. */
  weightInput: boolean;
  dropout: number;
  /** 0: no shared experts. */
  sharedSize: number;
  /** 0 without a selection bias. */
  selectionBiasRate: number;
  /** int32 [types,E], 0 or 1; null: every token may use every expert. */
  allowedExperts: TensorHandle | null;
}

/** What a call changes of the layer's configuration, and the tensors it brings. Absent: the configuration's. */
export interface NativeForwardOptions {
  training: boolean;
  mask?: TensorHandle;
  lossMask?: TensorHandle;
  routingIndices?: TensorHandle;
  routingWeights?: TensorHandle;
  logits?: TensorHandle;
  noise?: TensorHandle;
  tokenTypes?: TensorHandle;
  tokenIds?: TensorHandle;
  priorities?: TensorHandle;
  /** Keys the draws in place of the layer's count, which then stays as it is. */
  noiseStep?: number;
  tokenOffset?: number;
  gate?: number;
  topK?: number;
  capacityFactor?: number;
  temperature?: number;
  loadBalance?: number;
  importance?: number;
  load?: number;
  z?: number;
}

export interface NativeMoEForward {
  pass: MoEPassHandle;
  output: TensorHandle;
  indices: TensorHandle;
  weights: TensorHandle;
  kept: TensorHandle;
  actual: TensorHandle | null;
  /** C of an expert-choice router, whose indices, weights and kept are [E,C]; else 0. */
  expertSlots: number;
  logits: TensorHandle | null;
}

/** ints: assigned[E], kept[E], then tokens, droppedAssignments, droppedTokens, slots of an expert (-1: no limit).
 *  floats: loadBalance, importance, load, z, entropy, then the scaled total. */
export interface NativeStats {
  ints: Int32Array;
  floats: Float32Array;
}

export interface NativeBinding {
  readonly build: {
    readonly compiler: string;
    readonly cuda: boolean;
    /** Why there are no CUDA kernels in this build. */
    readonly cudaReason: string;
    /** Where they are, and the SHA-256 of each file. */
    readonly cudaFolder: string;
    readonly cudaChecksums: Readonly<Record<string, string>>;
  };
  /** Must be called once per environment: the class that native errors are made of. */
  initialize(errorClass: new (code: MoEErrorCode, message: string, hint?: string) => Error): void;
  cpuInfo(): { name: string; isa: string; memoryBytes: number };
  /**
   * `reason`: why there are none, or why one of them cannot be used; empty when there is nothing to explain. `tryThem`
   * opens each of them: only that finds all reasons.
   */
  cudaDevices(tryThem: boolean): {
    reason: string;
    driverVersion: number;
    gpus: {
      name: string;
      reason: string;
      computeCapability: string;
      multiprocessors: number;
      memoryBytes: number;
    }[];
  };

  /** How the experts stage's products would be tiled on a GPU of given size; asks no device. */
  cudaTiles(shape: {
    dtype: number;
    rows: number;
    numExperts: number;
    hiddenSize: number;
    ffnSize: number;
    gated: boolean;
    multiprocessors: number;
    sharedBytesPerBlock: number;
  }): { kernel: string; tile: string }[];

  cpuOpen(threads: number, memoryLimit: number): DeviceHandle;
  cudaOpen(index: number, memoryLimit: number): DeviceHandle;
  deviceClose(device: DeviceHandle): void;
  /** allocated, peak, reserved */
  deviceMemory(device: DeviceHandle): [number, number, number];
  deviceResetPeak(device: DeviceHandle): void;
  /** How many experts a plan can have. */
  deviceMostExperts(device: DeviceHandle): number;
  deviceSynchronize(device: DeviceHandle): Promise<void>;
  deviceMeasureLimits(device: DeviceHandle): Promise<DeviceLimits>;

  graphBegin(device: DeviceHandle): GraphHandle;
  graphEnd(graph: GraphHandle): void;
  graphReplay(graph: GraphHandle): void;
  graphRelease(graph: GraphHandle): void;

  deviceTimeKernels(device: DeviceHandle): void;
  deviceKernelTimes(device: DeviceHandle): Promise<KernelTime[]>;

  tensorFrom(device: DeviceHandle, dtype: number, data: HostArray): TensorHandle;
  tensorZeros(device: DeviceHandle, dtype: number, size: number): TensorHandle;
  tensorNormal(device: DeviceHandle, dtype: number, size: number, seed: bigint, std: number): TensorHandle;
  /** A second handle on the same storage. */
  tensorAlias(tensor: TensorHandle): TensorHandle;
  tensorRelease(tensor: TensorHandle): void;
  tensorRead(tensor: TensorHandle, into: HostArray): Promise<void>;
  tensorReadSync(tensor: TensorHandle, into: HostArray): void;
  tensorWrite(tensor: TensorHandle, data: HostArray): void;
  tensorClone(tensor: TensorHandle): TensorHandle;
  tensorConvert(tensor: TensorHandle, dtype: number): TensorHandle;
  tensorTransfer(tensor: TensorHandle, device: DeviceHandle): TensorHandle;

  /** Normal(0, std) from (seed, purpose); std 0 fills with `mean`. */
  parameterCreate(
    device: DeviceHandle,
    dtype: number,
    size: number,
    init: { mean: number; std: number; seed: bigint; purpose: number },
  ): ParameterHandle;
  parameterValue(parameter: ParameterHandle): TensorHandle;
  /** Made at the first call or the first backward; reads as zeros while it is cleared. */
  parameterGrad(parameter: ParameterHandle): TensorHandle;
  parameterSetTrainable(parameter: ParameterHandle, trainable: boolean): void;
  parameterZeroGrad(parameter: ParameterHandle): void;
  parameterRelease(parameter: ParameterHandle): void;

  layerCreate(
    device: DeviceHandle,
    config: NativeLayerConfig,
    parameters: Record<string, ParameterHandle>,
    seed: bigint,
  ): LayerHandle;
  layerRelease(layer: LayerHandle): void;
  layerForward(layer: LayerHandle, input: TensorHandle, options: NativeForwardOptions): NativeMoEForward;
  /** The count of training forwards, which keys every noise draw. */
  layerStep(layer: LayerHandle): number;
  layerRestore(layer: LayerHandle, step: number, seed: bigint): void;
  /** Of the forwards and replays from here on that are given none. */
  layerSetTemperature(layer: LayerHandle, value: number): void;
  /** int32 [gates·2E], the bits of 64-bit counts: assignments since the selection bias was stepped. Null without one. */
  layerAssigned(layer: LayerHandle): TensorHandle | null;
  layerUpdateSelectionBias(layer: LayerHandle): void;
  moePassBackward(
    pass: MoEPassHandle,
    gradOutput: TensorHandle,
    lossScale: number,
  ): {
    input: TensorHandle;
    routingWeights: TensorHandle | null;
    routingLogits: TensorHandle | null;
  };
  /** For tests: the floats that forward has left for backward, by their names in native/core/layer.cpp. */
  moePassSaved(pass: MoEPassHandle): Record<string, { dtype: number; size: number; tensor: TensorHandle }>;
  moePassStats(pass: MoEPassHandle): Promise<NativeStats>;
  moePassRelease(pass: MoEPassHandle): void;

  linearForward(
    input: TensorHandle,
    weight: ParameterHandle,
    bias: ParameterHandle | null,
    inFeatures: number,
    outFeatures: number,
  ): [PassHandle, TensorHandle];
  embeddingForward(
    indices: TensorHandle,
    weight: ParameterHandle,
    count: number,
    size: number,
  ): [PassHandle, TensorHandle];
  rmsNormForward(
    input: TensorHandle,
    weight: ParameterHandle,
    size: number,
    epsilon: number,
  ): [PassHandle, TensorHandle];
  /** The loss is one float. */
  crossEntropyForward(logits: TensorHandle, targets: TensorHandle, classes: number): [PassHandle, TensorHandle];
  /** gradOutput is null and `scale` counts for cross-entropy; an embedding answers an empty tensor. */
  passBackward(pass: PassHandle, gradOutput: TensorHandle | null, scale: number): TensorHandle;
  passRelease(pass: PassHandle): void;
  add(a: TensorHandle, b: TensorHandle): TensorHandle;

  /** Parameters that `previous` has too go on with its state. */
  adamwCreate(device: DeviceHandle, parameters: ParameterHandle[], previous: AdamWHandle | null): AdamWHandle;
  adamwStep(optimizer: AdamWHandle, ...scalars: AdamWScalars): void;
  adamwSetScalars(optimizer: AdamWHandle, ...scalars: AdamWScalars): void;
  /**
   * steps: int32 [1] each, updates so far; skipped: int32 [1]; gradNorm: float32 [1]; moments and masters (null for float32
   * parameters) in the order of the parameters.
   */
  adamwState(optimizer: AdamWHandle): {
    means: TensorHandle[];
    variances: TensorHandle[];
    masters: (TensorHandle | null)[];
    steps: TensorHandle[];
    skipped: TensorHandle;
    gradNorm: TensorHandle;
  };
  /** Makes the masters anew whose parameters were written since. */
  adamwRefreshMasters(optimizer: AdamWHandle): void;
  /** Takes the masters, which were written, as belonging to the parameters. */
  adamwAdoptMasters(optimizer: AdamWHandle): void;
  adamwRelease(optimizer: AdamWHandle): void;

  opsRoute(
    input: TensorHandle,
    weight: TensorHandle,
    shape: { tokens: number; hiddenSize: number; numExperts: number; topK: number },
    router: NativeRouter,
  ): { indices: TensorHandle; weights: TensorHandle; logits: TensorHandle; scores: TensorHandle };
  opsRouteBackward(
    input: TensorHandle,
    weight: TensorHandle,
    shape: { tokens: number; hiddenSize: number; numExperts: number; topK: number },
    router: NativeRouter,
    saved: { indices: TensorHandle; logits: TensorHandle; scores: TensorHandle },
    gradWeights: TensorHandle,
  ): { input: TensorHandle; weight: TensorHandle };
  opsPlan(
    indices: TensorHandle,
    weights: TensorHandle,
    shape: { tokens: number; numExperts: number; topK: number },
    capacity: NativeCapacity,
  ): { plan: PlanHandle; maxRows: number; offsets: TensorHandle; tokens: TensorHandle };
  planRelease(plan: PlanHandle): void;
  opsDispatch(input: TensorHandle, plan: PlanHandle, hiddenSize: number): TensorHandle;
  opsDispatchBackward(gradRows: TensorHandle, plan: PlanHandle, hiddenSize: number): TensorHandle;
  opsCombine(rows: TensorHandle, plan: PlanHandle, hiddenSize: number): TensorHandle;
  opsCombineBackward(
    rows: TensorHandle,
    gradOutput: TensorHandle,
    plan: PlanHandle,
    hiddenSize: number,
  ): { rows: TensorHandle; weights: TensorHandle };
  opsGroupedGemm(
    rows: TensorHandle,
    weight: TensorHandle,
    plan: PlanHandle,
    inFeatures: number,
    outFeatures: number,
  ): TensorHandle;
  opsGroupedGemmBackward(
    rows: TensorHandle,
    weight: TensorHandle,
    gradOutput: TensorHandle,
    plan: PlanHandle,
    inFeatures: number,
    outFeatures: number,
  ): { rows: TensorHandle; weight: TensorHandle };
}

const packageRoot = fileURLToPath(new URL('..', import.meta.url));

function load(): NativeBinding {
  let binding: NativeBinding;
  try {
    binding = bindings({ bindings: 'switchyard', module_root: packageRoot }) as NativeBinding;
  } catch (cause) {
    const built = ['Release', 'Debug'].some((name) => existsSync(join(packageRoot, 'build', name, 'switchyard.node')));
    const hint = '"npx switchyard doctor" says what is missing.';
    if (built) {
      const message = `The native addon of switchyard cannot be loaded: ${(cause as Error).message}. Build it anew with "npx switchyard build".`;
      throw new MoEError('ERR_DEVICE_UNAVAILABLE', message, hint, { cause });
    }
    // The cause would only list the two dozen places where `bindings` looks.
    throw new MoEError(
      'ERR_DEVICE_UNAVAILABLE',
      `The native addon of switchyard is not built in ${packageRoot}: the install script failed or did not run, which npm 12 and later let it do only where the project approves it, and --ignore-scripts never. Type "npx switchyard build", or "npm approve-scripts switchyard && npm rebuild switchyard".`,
      hint,
    );
  }
  binding.initialize(MoEError);
  return binding;
}

export const native: NativeBinding = load();
