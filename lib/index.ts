// The public names of switchyard, and nothing else. Importing it loads the native addon and has no other effect.

// What the declarations need beyond the default library of a TypeScript project: Disposable and Symbol.dispose.
/// <reference lib="esnext.disposable" preserve="true" />

export type { CheckpointState } from './checkpoint.js';
export { loadCheckpoint, saveCheckpoint } from './checkpoint.js';
export type { MoEConfig } from './config.js';
export type { CapacityConfig } from './config-capacity.js';
export type { ExpertConfig, LossConfig } from './config-experts.js';
export type { ForwardOptions } from './config-forward.js';
export type { RouterConfig } from './config-router.js';
export type { Device, DeviceInfo, DeviceKind, DeviceOptions } from './device.js';
export { listDevices, openDevice } from './device.js';
export type { MoEErrorCode } from './errors.js';
export { MoEError } from './errors.js';
export type { Graph } from './graph.js';
export type { DenseNetwork } from './grow.js';
export { expandExperts, upcycle } from './grow.js';
export type { DType } from './host-data.js';
export type { Module } from './modules.js';
export { add, crossEntropy, Embedding, Linear, RMSNorm } from './modules.js';
export type { MoEPass } from './moe-layer.js';
export { MoELayer } from './moe-layer.js';
export * as ops from './ops.js';
export type { AdamWOptions } from './optim.js';
export { AdamW } from './optim.js';
export type { Parameter } from './parameter.js';
export type { LossPass, Pass } from './pass.js';
export { presets } from './presets.js';
export * as schedules from './schedules.js';
export type { MoEStats } from './stats.js';
export type { Tensor } from './tensor.js';
