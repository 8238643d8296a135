// The one table of what the contract has and this version does not compute yet. Options are checked before they get here;
// those that equal their default ask for nothing and pass.

import { unsupported } from './checks.js';
import type { ResolvedCapacity } from './config-capacity.js';
import type { ResolvedRouter } from './config-router.js';

/** Option → what the resolved options ask of it that is missing, as the message shows it; undefined: nothing. */
type Table<Options> = Record<string, (options: Options) => string | boolean | undefined>;

/** What only a layer can do, which has parameters, a count of forwards and calls with options. */
const routeAlone: Table<ResolvedRouter> = {
  applyWeightTo: ({ applyWeightTo }) => applyWeightTo !== 'output' && applyWeightTo,
  type: ({ type }) => type !== 'top-k' && type !== 'sinkhorn' && type,
  noise: ({ noise }) => noise !== undefined,
  selectionBias: ({ selectionBias }) => selectionBias !== undefined,
  allowedExperts: ({ allowedExperts }) => allowedExperts !== undefined,
  renormalizeAfterDrop: (options) => options.renormalizeAfterDrop,
  secondChoice: ({ secondChoice }) => secondChoice !== 'always' && secondChoice.type,
};

const planAlone: Table<ResolvedCapacity> = {
  overflow: (options) => options.type !== 'dropless' && options.overflow !== 'drop' && options.overflow,
  priority: (options) => options.type !== 'dropless' && options.priority === 'random' && 'random',
};

function reject<Options>(name: string, table: Table<Options>, options: Options): void {
  for (const [option, asked] of Object.entries(table)) {
    const value = asked(options);
    if (value) throw unsupported(`${name}.${option}${typeof value === 'string' ? ` '${value}'` : ''} outside a layer`);
  }
}

/** Of a route by itself. */
export function rejectUnsupportedRouter(name: string, options: ResolvedRouter): void {
  reject(name, routeAlone, options);
}

/** Of a plan by itself. */
export function rejectUnsupportedCapacity(name: string, options: ResolvedCapacity): void {
  reject(name, planAlone, options);
}
