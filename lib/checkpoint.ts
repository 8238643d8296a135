// Checkpoints: which tensors and counters make up a run, under which names, and whether a file fits. The file format is
// safetensors.ts.

import type { HostArray } from './binding.js';
import {
  checkInteger,
  checkNumber,
  checkObject,
  checkOptions,
  checkSeed,
  describe,
  invalid,
  sameShape,
} from './checks.js';
import { MoEError } from './errors.js';
import { storedArray } from './host-data.js';
import type { Module } from './modules.js';
import { type LayerState, MoELayer } from './moe-layer.js';
import { AdamW, type AdamWHyperparameters, checkHyperparameters } from './optim.js';
import { Parameter } from './parameter.js';
import { SafetensorsFile, type TensorData, writeSafetensors } from './safetensors.js';
import { Tensor } from './tensor.js';

/** What a checkpoint is of. Loading takes it without metadata. */
export interface CheckpointState {
  /** Tensors are named '<module key>.<parameter name>'. Keys must not be 'optimizer' nor begin with 'optimizer.'. */
  modules: Record<string, Module>;
  /** Its parameters all belong to the modules. */
  optimizer?: AdamW;
  /** Strings of one's own. The key 'switchyard' is the library's. */
  metadata?: Record<string, string>;
}

/** The library's own metadata entry: what is not a tensor. */
const stateKey = 'switchyard';
const fileDType = { float32: 'F32', bfloat16: 'BF16', float16: 'F16', int32: 'I32' } as const;
const saveOptions = new Set(['modules', 'optimizer', 'metadata']);
const loadOptions = new Set(['modules', 'optimizer']);

interface ExtraState {
  layers: Map<string, LayerState>;
  optimizer: AdamWHyperparameters | undefined;
}

/**
 * Saves parameters, the layers' seeds, forward counts, temperatures and what the next step of a selection bias goes by
 * ('<module key>.router.assigned'), and the optimizer's moments, masters, counters and
 * hyperparameters as one safetensors file: a run resumed from it continues bit for bit. Gradients are not part of it: save
 * between step() and the next backward.
 *
 * The state is that of the moment of the call, whatever is queued after it. Rejects with ERR_IO when the file cannot be
 * written, and with the failure of a poisoned tensor; either way the old file stays as it was and nothing is left over.
 */
export async function saveCheckpoint(path: string, state: CheckpointState): Promise<void> {
  checkPath(path);
  const given = checkOptions('state', state, saveOptions);
  const modules = checkModules(given.modules);
  const optimizer = checkOptimizer(given.optimizer);
  const metadata = checkMetadata(given.metadata);
  const named = nameTensors(modules, optimizer);
  const extra = encodeState(modules, optimizer);
  // All reads are queued before the first await: nothing that is queued later can be in the snapshot.
  const reads = [...named].map(async ([name, tensor]): Promise<[string, TensorData]> => {
    return [name, { dtype: fileDType[tensor.dtype], shape: tensor.shape, data: await Tensor.bitsOf(tensor) }];
  });
  const tensors = new Map(await Promise.all(reads));
  await writeSafetensors(path, tensors, Object.fromEntries([...Object.entries(metadata), [stateKey, extra]]));
}

/**
 * Loads what saveCheckpoint() wrote into modules and an optimizer of the same shape, and answers the user's metadata.
 * Nothing is changed unless everything fits.
 *
 * Tensors in the file that no module asks for are left alone, so that a part of a model can be loaded. A layer takes the
 * seed, forward count and temperature of the file when it has them; a file of another tool has none.
 *
 * ERR_IO: the file cannot be read. ERR_CORRUPT_FILE: it is truncated or contradicts itself. ERR_INVALID_ARGUMENT: it has
 * no such tensor. ERR_SHAPE, ERR_DTYPE: it has, but of another shape or dtype.
 */
export async function loadCheckpoint(
  path: string,
  state: Omit<CheckpointState, 'metadata'>,
): Promise<Record<string, string>> {
  checkPath(path);
  const given = checkOptions('state', state, loadOptions);
  const modules = checkModules(given.modules);
  const optimizer = checkOptimizer(given.optimizer);
  const named = nameTensors(modules, optimizer);
  const file = await SafetensorsFile.open(path);
  try {
    for (const [name, tensor] of named) if (!isOptional(file, name)) checkFits(file, name, tensor);
    const extra = decodeState(file);
    if (optimizer && !extra.optimizer)
      throw invalid('state.optimizer', `a file that has an optimizer's state, which ${path} has not`, optimizer);
    const contents: HostArray[] = [];
    for (const [name, tensor] of named) {
      const data = storedArray(tensor.dtype, tensor.size);
      contents.push(data);
      if (isOptional(file, name)) continue;
      await file.read(file.tensors.get(name)!, data);
      if (!isAssigned(name)) checkCounts(file, name, data);
    }
    apply(modules, optimizer, contents, extra);
    return Object.fromEntries(Object.entries(file.metadata).filter(([key]) => key !== stateKey));
  } finally {
    await file.close().catch(() => {});
  }
}

/** From here on nothing can fail but what has been disposed meanwhile, which is looked at first. */
function apply(
  modules: ReadonlyMap<string, Module>,
  optimizer: AdamW | undefined,
  contents: HostArray[],
  extra: ExtraState,
): void {
  const tensors = [...nameTensors(modules, optimizer).values()];
  for (const [i, tensor] of tensors.entries()) {
    tensor.write(contents[i]!);
    contents[i] = new Float32Array(0); // the queue has its own copy
  }
  for (const [key, module] of modules) {
    const saved = extra.layers.get(key);
    if (saved && module instanceof MoELayer) MoELayer.restore(module, saved);
  }
  if (optimizer) AdamW.restore(optimizer, extra.optimizer!);
}

// ---------------------------------------------------------------- arguments

function checkPath(path: unknown): void {
  if (typeof path !== 'string' || path === '' || path.includes('\0')) throw invalid('path', 'the path of a file', path);
}

function checkModules(value: unknown): ReadonlyMap<string, Module> {
  const modules = new Map<string, Module>();
  for (const [key, module] of Object.entries(checkObject('state.modules', value))) {
    const name = `state.modules.${key}`;
    if (key === '' || key === 'optimizer' || key.startsWith('optimizer.'))
      throw invalid('state.modules', "keys other than '', 'optimizer' and 'optimizer.…'", key);
    if (typeof (module as Partial<Module> | null | undefined)?.parameters !== 'function')
      throw invalid(name, 'a module with parameters()', module);
    modules.set(key, module as Module);
  }
  return modules;
}

function checkOptimizer(value: unknown): AdamW | undefined {
  if (value === undefined || value instanceof AdamW) return value;
  throw invalid('state.optimizer', 'an AdamW', value);
}

function checkMetadata(value: unknown): Record<string, string> {
  const metadata = value === undefined ? {} : checkObject('state.metadata', value);
  for (const [key, entry] of Object.entries(metadata)) {
    if (typeof entry !== 'string') throw invalid(`state.metadata.${key}`, 'a string', entry);
    if (key === stateKey) throw invalid('state.metadata', `no key '${stateKey}', which is the library's`, key);
  }
  return metadata as Record<string, string>;
}

// ---------------------------------------------------------------- tensors

/** Every tensor of the state by its name in the file; all of them are live. */
function nameTensors(modules: ReadonlyMap<string, Module>, optimizer: AdamW | undefined): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  const names = new Map<Parameter, string>();
  const put = (name: string, tensor: Tensor): void => {
    if (tensors.has(name)) throw invalid('state.modules', `keys that give each tensor a name of its own`, name);
    tensors.set(name, tensor);
  };
  for (const [key, module] of modules) {
    for (const [name, parameter] of module.parameters()) {
      if (!Parameter.isParameter(parameter)) throw invalid(`${key}.${name}`, 'a parameter', parameter);
      put(`${key}.${name}`, parameter.value);
      names.set(parameter, `${key}.${name}`);
    }
    const assigned = module instanceof MoELayer ? MoELayer.assignedOf(module) : undefined;
    if (assigned) put(`${key}${assignedSuffix}`, assigned);
  }
  if (!optimizer) return tensors;
  const { parameters, means, variances, masters, steps, skipped } = AdamW.stateOf(optimizer);
  for (const [i, parameter] of parameters.entries()) {
    const name = names.get(parameter);
    if (name === undefined)
      throw invalid(
        'state.modules',
        `the modules of all the optimizer's parameters; '${parameter.name}' is of none of`,
        [...modules.keys()],
      );
    put(`optimizer.mean.${name}`, means[i]!);
    put(`optimizer.variance.${name}`, variances[i]!);
    if (masters[i]) put(`optimizer.master.${name}`, masters[i]);
    put(`optimizer.step.${name}`, steps[i]!);
  }
  put('optimizer.skipped', skipped);
  return tensors;
}

const assignedSuffix = '.router.assigned';
/** 64-bit counts in two halves each, of which either may look negative. */
const isAssigned = (name: string): boolean => name.endsWith(assignedSuffix);
/** A file of another tool has no such counts: they start from 0. */
const isOptional = (file: SafetensorsFile, name: string): boolean => isAssigned(name) && !file.tensors.has(name);

function checkFits(file: SafetensorsFile, name: string, tensor: Tensor): void {
  const entry = file.tensors.get(name);
  if (!entry)
    throw new MoEError('ERR_INVALID_ARGUMENT', `${file.path}: expected a tensor '${name}', got a file without it`);
  const dtype = fileDType[tensor.dtype];
  if (entry.dtype !== dtype)
    throw new MoEError('ERR_DTYPE', `${file.path}: tensor '${name}': expected dtype ${dtype}, got ${entry.dtype}`);
  if (!sameShape(entry.shape, tensor.shape)) {
    throw new MoEError(
      'ERR_SHAPE',
      `${file.path}: tensor '${name}': expected shape ${describe(tensor.shape)}, got ${describe(entry.shape)}`,
    );
  }
}

/** All other int32 tensors of a checkpoint count something; below 0 the bias correction would divide by 0. */
function checkCounts(file: SafetensorsFile, name: string, data: HostArray): void {
  const wrong = data instanceof Int32Array ? data.find((count) => count < 0) : undefined;
  if (wrong !== undefined)
    throw new MoEError(
      'ERR_CORRUPT_FILE',
      `${file.path}: tensor '${name}': expected a count of at least 0, got ${wrong}`,
    );
}

// ---------------------------------------------------------------- what is not a tensor

function encodeState(modules: ReadonlyMap<string, Module>, optimizer: AdamW | undefined): string {
  const layers: [string, unknown][] = [];
  for (const [key, module] of modules) {
    if (!(module instanceof MoELayer)) continue;
    const { seed, step, temperature } = MoELayer.stateOf(module);
    // JSON has no 64-bit integers.
    layers.push([key, { seed: typeof seed === 'bigint' ? `${seed}n` : seed, step, temperature }]);
  }
  return JSON.stringify({
    version: 1,
    layers: Object.fromEntries(layers),
    ...(optimizer && { optimizer: AdamW.hyperparametersOf(optimizer) }),
  });
}

function decodeState(file: SafetensorsFile): ExtraState {
  const empty: ExtraState = { layers: new Map(), optimizer: undefined };
  const text = Object.hasOwn(file.metadata, stateKey) ? file.metadata[stateKey]! : undefined;
  if (text === undefined) return empty;
  try {
    const parsed = checkObject('state', JSON.parse(text));
    if (parsed.version !== 1) throw invalid('version', '1', parsed.version);
    const layers = Object.entries(checkObject('layers', parsed.layers)).map(
      ([key, layer]) => [key, decodeLayer(`layers.${key}`, layer)] as const,
    );
    const optimizer =
      parsed.optimizer === undefined
        ? undefined
        : checkHyperparameters('optimizer', checkObject('optimizer', parsed.optimizer));
    return { layers: new Map(layers), optimizer };
  } catch (error) {
    throw new MoEError(
      'ERR_CORRUPT_FILE',
      `${file.path}: __metadata__.${stateKey}: ${(error as Error).message}`,
      undefined,
      {
        cause: error,
      },
    );
  }
}

function decodeLayer(name: string, value: unknown): LayerState {
  const { seed, step, temperature } = checkObject(name, value);
  const isBig = typeof seed === 'string' && /^\d{1,20}n$/.test(seed);
  return {
    seed: checkSeed(`${name}.seed`, isBig ? BigInt(seed.slice(0, -1)) : seed),
    step: checkInteger(`${name}.step`, step, 0, Number.MAX_SAFE_INTEGER),
    temperature: checkNumber(`${name}.temperature`, temperature, { above: 0 }),
  };
}
