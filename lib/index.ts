// The public API of switchyard: exports only.

export type { MoEConfig, ResolvedConfig } from './config.js';
export type { CapacityConfig } from './config-capacity.js';
export type { ExpertConfig, LossConfig } from './config-experts.js';
export type { ForwardOptions } from './config-forward.js';
export type { RouterConfig } from './config-router.js';
export {
  Device,
  type DeviceInfo,
  type DeviceKind,
  type DeviceOptions,
  type Graph,
  listDevices,
  openDevice,
} from './device.js';
export { MoEError, type MoEErrorCode } from './errors.js';
export type { DType } from './host-data.js';
export {
  add,
  type CrossEntropyPass,
  crossEntropy,
  Embedding,
  Linear,
  type Module,
  type Pass,
  RMSNorm,
} from './modules.js';
export { MoELayer, type MoEPass, type MoEStats, type Routing } from './moe-layer.js';
export * as ops from './ops.js';
export { AdamW, type AdamWOptions } from './optim.js';
export type { Parameter } from './parameter.js';
export * as schedules from './schedules.js';
export type { Tensor } from './tensor.js';
