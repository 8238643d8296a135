/**
 * Seeded random numbers for tests: the same on every machine, and every value exactly a float32, so that the library and
 * the float64 reference start from the same numbers. Not the library's generator.
 */

/** Uniform in [0, 1): Steele & Vigna's SplitMix with 32-bit state. */
export function uniforms(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
}

/** Normal(0, std) by the Box–Muller transform, rounded to float32. */
export function normals(seed: number, size: number, std = 1): Float32Array {
  const next = uniforms(seed);
  return Float32Array.from({ length: size }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - next()));
    return std * radius * Math.cos(2 * Math.PI * next());
  });
}

/** Whole numbers in [low, high]. */
export function integers(seed: number, size: number, low: number, high: number): Int32Array {
  const next = uniforms(seed);
  return Int32Array.from({ length: size }, () => low + Math.floor(next() * (high - low + 1)));
}
