/**
 * The float64 reference of the Sinkhorn router's balance (Sinkhorn & Knopp 1967; as Megatron-LM uses it): exp(v), over a
 * row's largest, of the live tokens is scaled by rows, so that every token has 1/T, then by columns, so that every expert
 * has 1/E, and again, until the experts' factors change by less than 1e-4 on average, or 1,000 times: token types may leave
 * no balance to be found.
 */

import { row, sum, type Vector } from './reference-math.js';

/** The logarithms of the experts' factors [E], for v [T,E]. A token prefers the experts whose v plus this is largest. */
export function sinkhornShifts(v: Vector, live: readonly boolean[], numExperts: number): Vector {
  const costs = [...live.keys()].filter((t) => live[t]).map((t) => costsOf(row(v, t, numExperts)));
  let factors = new Float64Array(numExperts).fill(1);
  let change = Infinity;
  for (let step = 0; costs.length > 0 && change >= 1e-4 && step < 1000; step++) {
    const tokenFactors = costs.map((cost) => 1 / (costs.length * (sum(cost.map((c, e) => c * factors[e]!)) + 1e-8)));
    const next = factors.map(
      (_, e) => 1 / (numExperts * (sum(costs.map((cost, t) => cost[e]! * tokenFactors[t]!)) + 1e-8)),
    );
    change = sum(next.map((factor, e) => Math.abs(factor - factors[e]!))) / numExperts;
    factors = next;
  }
  return factors.map(Math.log);
}

function costsOf(values: Vector): Vector {
  const largest = values.reduce((a, b) => Math.max(a, b));
  return values.map((value) => Math.exp(value - largest));
}
