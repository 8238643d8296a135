// The statistics of one forward as users read them, decoded from the native code's two arrays.
import type { NativeStats } from './binding.js';

/** All zero for T = 0. */
export interface MoEStats {
  /** Tokens that were routed: all of the call's that are not masked. */
  tokens: number;
  /** Unscaled values of the losses that are on, and the sum of all after their coefficients. */
  losses: { loadBalance?: number; importance?: number; load?: number; z?: number; total: number };
  /** [E] assignments per expert before drops. */
  assigned: Int32Array;
  /** [E] assignments per expert that were kept. */
  kept: Int32Array;
  /** Slots per expert and group of tokens, without the buffer; null without a limit. */
  capacity: number | null;
  droppedAssignments: number;
  /** Tokens that lost all their experts, or that no expert chose. */
  droppedTokens: number;
  /** Maximum over mean of `assigned`: 1 at perfect balance, E when one expert has everything. */
  imbalance: number;
  /** Entropy of the mean router probability, in nats: ln E at perfect balance. */
  routerEntropy: number;
  /** The share of experts with at least one assignment. */
  utilization: number;
}

/** `on` says which losses were taken. */
export function decodeStats(
  { ints, floats }: NativeStats,
  on: { numExperts: number; loadBalance: boolean; importance: boolean; load: boolean; z: boolean },
): MoEStats {
  const { numExperts } = on;
  const assigned = ints.slice(0, numExperts);
  const kept = ints.slice(numExperts, 2 * numExperts);
  const [tokens, droppedAssignments, droppedTokens, capacity] = ints.subarray(2 * numExperts) as unknown as number[];
  const [loadBalance, importance, load, z, entropy, total] = floats as unknown as number[];
  let sum = 0;
  let most = 0;
  let used = 0;
  for (const count of assigned) {
    sum += count;
    most = Math.max(most, count);
    if (count > 0) used++;
  }
  const losses: MoEStats['losses'] = { total: total! };
  if (on.loadBalance) losses.loadBalance = loadBalance!;
  if (on.importance) losses.importance = importance!;
  if (on.load) losses.load = load!;
  if (on.z) losses.z = z!;
  return {
    tokens: tokens!,
    losses,
    assigned,
    kept,
    capacity: capacity! < 0 ? null : capacity!,
    droppedAssignments: droppedAssignments!,
    droppedTokens: droppedTokens!,
    imbalance: sum === 0 ? 0 : (most * numExperts) / sum,
    routerEntropy: entropy!,
    utilization: used / numExperts,
  };
}
