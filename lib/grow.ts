// Growing a model: a MoE layer made of dense networks, and a layer with more experts than it had. Both happen on the host,
// once, and block; what they compute is the same function as before.
import { checkInteger, checkNumber, checkOptions, describe, invalid, maxSize, orDefault } from './checks.js';
import { type MoEConfig, type ResolvedConfig, resolveConfig } from './config.js';
import type { ResolvedCapacity } from './config-capacity.js';
import { activationOf } from './config-experts.js';
import { MoEError } from './errors.js';
import { addNoise, placedRows, type Sources } from './grow-values.js';
import { MoELayer } from './moe-layer.js';
import { AdamW } from './optim.js';
import type { Parameter } from './parameter.js';
import { Tensor } from './tensor.js';

/** A dense feed-forward network without biases, in the layout of PyTorch's nn.Linear: gate and up [D,H], down [H,D]. */
export interface DenseNetwork {
  /** With a gated activation. */
  gate?: Tensor;
  up: Tensor;
  down: Tensor;
}

// ---------------------------------------------------------------- upcycling

const upcycleOptions = new Set(['noise', 'granularity']);
const networkOptions = new Set(['gate', 'up', 'down']);

/** Logits this small leave the weights equal to about 1e-5 and still tell the experts apart. */
const nearlyUniform = 2 ** -18;

/**
 * A layer that computes what `dense` computes, with copies of it as experts (sparse upcycling, Komatsuzaki et al. 2023);
 * config.ffnSize is the dense width D over `granularity`. Of several networks, each token gets the mean of those that the
 * router sends it to, by its weights; copies of one network are neighbours, and the first networks come first.
 *
 * granularity splits every copy into that many experts of D/granularity, which start with one router row between them, so
 * that a token gets whole networks: topK and numExperts are multiples of it (virtual groups, He et al. 2024).
 *
 * `down` is scaled so that the weights of a token add up to 1. Where their sum depends on the scores (no renormalisation and
 * K < E), and for weights of the input, the router starts so close to uniform that the sum is right to about 1e-5. Shared
 * experts start with down = 0. Drops and noise of the router are not undone.
 *
 * noise: the standard deviation of what is added to the experts' matrices, over the root mean square of each. Default 0.
 */
export function upcycle(
  dense: DenseNetwork | readonly DenseNetwork[],
  config: MoEConfig,
  options: { noise?: number; granularity?: number } = {},
): MoELayer {
  const given = checkOptions('options', options, upcycleOptions);
  const noise = checkNumber('options.noise', orDefault(given.noise, 0), { min: 0 });
  const resolved = resolveConfig(config);
  const granularity = checkInteger(
    'options.granularity',
    orDefault(given.granularity, 1),
    1,
    resolved.topK,
    'config.topK',
  );
  const networks = checkNetworks(dense, resolved, granularity);
  checkGranularity(resolved, granularity, networks.length);

  const { topK: K, router, seed } = resolved;
  const { each, constant } = weightsAtUniform(resolved);
  const ofInput = router.applyWeightTo === 'input';
  const copies = K / granularity;
  const inputScale = ofInput ? 1 / each : 1;
  const outputScale = ofInput ? 1 / copies : 1 / (copies * each);

  const layer = new MoELayer(networks[0]!.up.device, resolved);
  try {
    for (const [name, parameter] of layer.parameters()) {
      const kind = name.slice('experts.'.length) as keyof DenseNetwork;
      if (name === 'experts.gate' || name === 'experts.up' || name === 'experts.down') {
        const scale = kind === 'down' ? outputScale : inputScale;
        const values = expertsFrom(networks, kind, resolved, granularity, scale);
        addNoise(layer.device, parameter, values, { noise, seed });
        parameter.value.write(values);
      } else if (name.startsWith('router.') && name.endsWith('.weight')) {
        const uniform = nearlyUniform * Math.min(1, router.temperature);
        startRouter(parameter, granularity, constant && (!ofInput || K === 1) ? 1 : uniform);
      } else if (name === 'shared.down') {
        parameter.value.write(new Float32Array(parameter.value.size));
      }
    }
  } catch (error) {
    layer.dispose();
    throw error;
  }
  return layer;
}

function checkNetworks(dense: unknown, config: ResolvedConfig, granularity: number): DenseNetwork[] {
  const several = Array.isArray(dense);
  const list: unknown[] = several ? dense : [dense];
  if (list.length === 0) throw invalid('dense', 'at least one network', dense);
  const [H, D] = [config.hiddenSize, config.ffnSize * granularity];
  const { gated } = activationOf(config.experts);
  return list.map((network, i) => {
    const name = several ? `dense[${i}]` : 'dense';
    const { gate, up, down } = checkOptions(name, network, networkOptions);
    if (gated !== (gate !== undefined))
      throw invalid(
        `${name}.gate`,
        gated ? 'a matrix, for a gated activation' : 'none, for an activation without',
        gate,
      );
    const checked: DenseNetwork = {
      up: checkMatrix(`${name}.up`, up, [D, H]),
      down: checkMatrix(`${name}.down`, down, [H, D]),
    };
    if (gated) checked.gate = checkMatrix(`${name}.gate`, gate, [D, H]);
    return checked;
  });
}

function checkMatrix(name: string, value: unknown, [rows, columns]: readonly [number, number]): Tensor {
  if (!(value instanceof Tensor)) throw invalid(name, 'a tensor', value);
  Tensor.handleOf(name, value, undefined);
  if (value.dtype === 'int32') throw invalid(name, 'a tensor of floats', value.dtype, 'ERR_DTYPE');
  if (value.shape.length === 2 && value.shape[0] === rows && value.shape[1] === columns) return value;
  throw new MoEError(
    'ERR_SHAPE',
    `${name}: expected shape [${rows}, ${columns}] for config.hiddenSize and config.ffnSize · options.granularity, got ${describe(value.shape)}`,
  );
}

function checkGranularity(config: ResolvedConfig, granularity: number, networks: number): void {
  const { topK, numExperts, router } = config;
  if (router.type === 'expert-choice')
    throw invalid('config.router.type', 'a router that gives every token K experts', router.type);
  if (granularity > 1 && (router.type === 'hash' || router.type === 'random'))
    throw invalid('options.granularity', `1 with a router that draws experts ('${router.type}')`, granularity);
  if (router.weightScale === 0) throw invalid('config.router.weightScale', 'another number, to be made up for', 0);
  if (router.allowedExperts && (granularity > 1 || !weightsAtUniform(config).constant))
    throw invalid('config.router.allowedExperts', 'none, with granularity or without router.renormalize', 'lists');
  const whole = (name: string, count: number): void => {
    if (count % granularity !== 0) throw invalid(name, `a multiple of options.granularity (${granularity})`, count);
  };
  whole('config.topK', topK);
  whole('config.numExperts', numExperts);
  if (router.groups) whole('config.numExperts over config.router.groups.count', numExperts / router.groups.count);
  if (networks * granularity > numExperts)
    throw invalid('dense', `at most ${numExperts / granularity} networks, one for each copy`, networks);
}

/** The weight of each of a token's K experts when all score alike, and whether the K add up to the same whatever the scores. */
function weightsAtUniform({ topK: K, numExperts: E, router }: ResolvedConfig): { each: number; constant: boolean } {
  const { type, scoring, selectBy, renormalize, renormalizeAfterDrop, weightScale } = router;
  if (renormalizeAfterDrop) return { each: weightScale / K, constant: true };
  const fixed = type === 'hash' || type === 'random';
  const sigmoid = type === 'sinkhorn' ? K === 1 : !fixed && scoring === 'sigmoid';
  const ofSelected = fixed || (type !== 'sinkhorn' && selectBy === 'logits');
  const score = sigmoid ? 0.5 : 1 / (ofSelected ? K : E);
  if (!renormalize) return { each: weightScale * score, constant: !sigmoid && (ofSelected || K === E) };
  const { p, epsilon } = renormalize;
  return {
    each: (weightScale * score) / (score * K ** (1 / p) + epsilon),
    constant: fixed || (p === 1 && epsilon < 1e-6),
  };
}

/** [E,F,H] of gate or up, or [E,H,F] of down: slice e % granularity of the copy e / granularity. */
function expertsFrom(
  networks: readonly DenseNetwork[],
  kind: keyof DenseNetwork,
  { hiddenSize: H, ffnSize: F, numExperts: E }: ResolvedConfig,
  granularity: number,
  scale: number,
): Float32Array {
  const copies = E / granularity;
  const D = F * granularity;
  const matrices = networks.map((network) => network[kind]!.dataSync());
  const values = new Float32Array(E * F * H);
  for (let e = 0; e < E; e++) {
    const copy = Math.floor(e / granularity);
    const matrix = matrices[Math.floor((copy * networks.length) / copies)]!;
    const first = (e % granularity) * F;
    if (kind === 'down') {
      for (let h = 0; h < H; h++)
        values.set(matrix.subarray(h * D + first, h * D + first + F) as Float32Array, (e * H + h) * F);
    } else {
      values.set(matrix.subarray(first * H, (first + F) * H) as Float32Array, e * F * H);
    }
  }
  if (scale !== 1) for (let i = 0; i < values.length; i++) values[i]! *= scale;
  return values;
}

/** The slices of a copy share its row. */
function startRouter({ value }: Parameter, granularity: number, scale: number): void {
  const [E, H] = value.shape as [number, number];
  const rows = value.dataSync() as Float32Array;
  for (let e = 0; e < E; e++) {
    const from = e - (e % granularity);
    for (let h = 0; h < H; h++) rows[e * H + h] = e === from ? scale * rows[from * H + h]! : rows[from * H + h]!;
  }
  value.write(rows);
}

// ---------------------------------------------------------------- more experts

const expandOptions = new Set(['noise', 'optimizer']);

/** Below any logit there is, at any temperature, and finite after the division by it: softmax and sigmoid of it are 0. */
const closed = -1e9;

/**
 * A layer of `numExperts` experts that computes the same function: those of `layer`, and copies of them in turn that no
 * token chooses yet, so that training goes on as it would have. Two biases keep them back, whatever the logits and the
 * temperature:
 * - 'router.bias', 1e9 below the original's, so that their scores are 0; added, and not trainable, where the router had
 *   none (checkpoints hold values: a layer that loads them has to be told again). A selection bias on sigmoids does without
 *   it, unless groups within allowed experts may leave a choice over.
 * - 'router.selectionBias', 2 below the lowest, where the router has one; added, with rate 0, where groups choose by
 *   scores, since among scores of 0 the place decides.
 *
 * To let copies in, write both biases: those of the originals at once, or 'router.bias' step by step from 20 times the
 * temperature below them, where a weight of a softmax begins to count. updateSelectionBias() raises the other by its rate.
 *
 * Experts that choose tokens have copies that choose as well, with weights 0; so may the choices that groups within
 * allowed experts leave over. Token types with fewer than K experts get no copies. The balancing losses are those of
 * `numExperts` experts.
 *
 * New experts come after the old ones, in each group of router.groups, so that a random queue and dropout draw anew for those
 * that move. Fixed and dynamic capacities get a factor that leaves the slots per expert what they were. The layer's seed, count of
 * forwards, temperature and which parameters are trainable go over; gradients do not; `layer` stays as it is.
 *
 * noise: the standard deviation of what is added to the copies' matrices, over the root mean square of each. Default 0.
 *
 * optimizer: gets the new layer's parameters in the place of `layer`'s, with their moments, masters and step counts; copies
 * start with those of their originals, an added bias with none.
 */
export function expandExperts(
  layer: MoELayer,
  numExperts: number,
  options: { noise?: number; optimizer?: AdamW } = {},
): MoELayer {
  if (!(layer instanceof MoELayer)) throw invalid('layer', 'a MoELayer', layer);
  const given = checkOptions('options', options, expandOptions);
  const noise = checkNumber('options.noise', orDefault(given.noise, 0), { min: 0 });
  const optimizer = given.optimizer;
  if (optimizer !== undefined && !(optimizer instanceof AdamW))
    throw invalid('options.optimizer', 'an AdamW', optimizer);
  const state = MoELayer.stateOf(layer);
  if (optimizer && !AdamW.hasAny(optimizer, layer.parameters().values()))
    throw invalid('options.optimizer', "one that has the layer's parameters", optimizer);
  const config = layer.config as ResolvedConfig;
  const E = config.numExperts;
  checkInteger('numExperts', numExperts, E + 1, maxSize);
  checkExpandable(config, numExperts);

  const sources = sourcesOf(E, numExperts, config.router.groups?.count ?? 1);
  const bySelection = keptBackBySelection(config);
  const masters = optimizer ? AdamW.mastersOf(optimizer) : new Map<Parameter, Tensor>();
  const grown = new MoELayer(layer.device, expandedConfig(config, numExperts, sources, bySelection));
  try {
    const replaced = new Map<Parameter, Parameter>();
    const written = new Map<Parameter, Float32Array>();
    for (const [name, parameter] of grown.parameters()) {
      const old = layer.parameters().get(name);
      const values = old
        ? placedRows((masters.get(old) ?? old.value).dataSync() as Float32Array, rowsOf(name, E), sources)
        : new Float32Array(parameter.value.size);
      if (/^experts\.(gate|up|down)$/.test(name))
        addNoise(layer.device, parameter, values, { noise, seed: state.seed, rows: sources.isNew });
      if (name.endsWith('.bias') && !bySelection)
        for (let e = 0; e < numExperts; e++) if (sources.isNew[e]) values[e]! += closed;
      if (name.endsWith('.selectionBias')) holdBack(values, sources.isNew);
      parameter.value.write(values);
      if (name !== 'router.selectionBias') parameter.trainable = old?.trainable ?? false;
      if (old) replaced.set(old, parameter);
      written.set(parameter, values);
    }
    const assigned = MoELayer.assignedOf(layer);
    if (assigned) MoELayer.assignedOf(grown)!.write(countsOf(assigned.dataSync() as Int32Array, sources, config.gates));
    MoELayer.restore(grown, state);
    if (optimizer) {
      const added = [...grown.parameters().values()].filter((parameter) => ![...replaced.values()].includes(parameter));
      AdamW.replace(optimizer, {
        replaced,
        added,
        masters: written,
        carry: ({ name }, moments) => placedRows(moments, rowsOf(name, E), sources),
      });
    }
  } catch (error) {
    grown.dispose();
    throw error;
  }
  return grown;
}

function checkExpandable({ router, capacity, numExperts: before }: ResolvedConfig, numExperts: number): void {
  const { type, groups } = router;
  if (type === 'hash' || type === 'random' || type === 'sinkhorn')
    throw invalid('layer.config.router.type', 'a router that chooses by its scores', type);
  if (capacity.type !== 'dropless' && capacity.overflow === 'next-choice')
    throw invalid(
      'layer.config.capacity.overflow',
      "'drop' or 'residual': the copies would be the next choices",
      capacity.overflow,
    );
  if (groups?.score === 'top2-sum' && groups.count === before)
    throw invalid('layer.config.router.groups.score', "'max' for groups of one expert", groups.score);
  if (groups && numExperts % groups.count !== 0)
    throw invalid('numExperts', `a multiple of router.groups.count (${groups.count})`, numExperts);
}

/** Experts of `groups` equal groups of neighbours: the old ones of a group, then copies of them in turn. */
function sourcesOf(before: number, after: number, groups: number): Sources {
  const [from, to] = [before / groups, after / groups];
  const places = Array.from({ length: after }, (_, e) => ({ group: Math.floor(e / to), within: e % to }));
  return {
    of: places.map(({ group, within }) => group * from + (within % from)),
    isNew: places.map(({ within }) => within >= from),
  };
}

/** The selection bias alone does where others' scores stay what they are, are between 0 and 1, and are K at least. */
function keptBackBySelection({ router }: ResolvedConfig): boolean {
  const { selectionBias, selectBy, scoring, groups, allowedExperts } = router;
  return selectionBias !== undefined && selectBy === 'scores' && scoring === 'sigmoid' && !(groups && allowedExperts);
}

/** Below every other by more than scores, from 0 to 1, can make up for. */
function holdBack(bias: Float32Array, isNew: readonly boolean[]): void {
  const lowest = Math.min(...bias.filter((_, e) => !isNew[e]));
  for (const [e, held] of isNew.entries()) if (held) bias[e] = lowest - 2;
}

function expandedConfig(config: ResolvedConfig, numExperts: number, sources: Sources, bySelection: boolean): MoEConfig {
  const { router, capacity, topK } = config;
  // Choices that are left over would go to copies, however far these are kept back.
  const lists = router.allowedExperts?.map((experts) => {
    const enough = new Set(experts).size >= topK;
    return [...sources.of.keys()].filter((e) => experts.includes(sources.of[e]!) && (enough || !sources.isNew[e]));
  });
  const bySelectionToo = router.groups !== undefined && router.selectBy === 'scores';
  const selectionBias = router.selectionBias ?? (bySelectionToo ? { rate: 0 } : undefined);
  return {
    ...config,
    numExperts,
    router: {
      ...router,
      bias: router.bias || !bySelection,
      ...(selectionBias && { selectionBias }),
      ...(lists && { allowedExperts: lists }),
    },
    capacity: scaledCapacity(
      router.type === 'expert-choice' ? expertChoiceCapacity(capacity) : capacity,
      config.numExperts,
      numExperts,
    ),
  };
}

/** Without a factor, 1 is what the router takes. */
function expertChoiceCapacity(capacity: ResolvedCapacity): ResolvedCapacity {
  return capacity.type === 'dropless' ? ({ type: 'fixed', factor: 1 } as ResolvedCapacity) : capacity;
}

/** C = factor · K · T / E, and buffer · E · C, stay what they were. */
function scaledCapacity(capacity: ResolvedCapacity, before: number, after: number): ResolvedCapacity {
  const scaled = (factor: number) => timesQuotient(factor, after, before);
  if (capacity.type === 'dropless') return capacity;
  if (capacity.type === 'dynamic') return { ...capacity, maxFactor: scaled(capacity.maxFactor) };
  const { factor, evalFactor, buffer } = capacity;
  return {
    ...capacity,
    ...(factor !== undefined && { factor: scaled(factor) }),
    ...(evalFactor !== undefined && { evalFactor: scaled(evalFactor) }),
    ...(buffer !== undefined && { buffer: timesQuotient(buffer, before, after) }),
  };
}

/** value · a / b, a little less where that is not exact: a little more would be one more slot where they are a whole number. */
function timesQuotient(value: number, a: number, b: number): number {
  const quotient = (value * a) / b;
  return quotient * b === value * a ? quotient : quotient * (1 - 2 ** -53);
}

/** How many rows of a parameter belong to experts; 0 for those of no expert. */
const rowsOf = (name: string, E: number): number => (name.startsWith('shared.') ? 0 : E);

/** 64-bit counts, those of one gate after the other, as two int32 each; copies have had none. */
function countsOf(counts: Int32Array, { of, isNew }: Sources, gates: number): Int32Array {
  const [before, after] = [counts.length / gates, 2 * of.length];
  return Int32Array.from({ length: gates * after }, (_, i) => {
    const e = (i % after) >> 1;
    return isNew[e] ? 0 : counts[Math.floor(i / after) * before + 2 * of[e]! + (i % 2)]!;
  });
}
