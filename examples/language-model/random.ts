// Random numbers that are a function of their key alone: there is no state to save and restore.

/** The first part of each key, so that no two uses share their numbers. */
export const purpose = { order: 1, hiding: 2, sampling: 3 } as const;

/** Uniform in [0, 1), from the finaliser of MurmurHash3 chained over the key. */
export function random(...key: number[]): number {
  let hash = 0x9e3779b9;
  for (const part of key) {
    hash = Math.imul(hash ^ part, 0x85ebca6b);
    hash ^= hash >>> 13;
    hash = Math.imul(hash, 0xc2b2ae35);
    hash ^= hash >>> 16;
  }
  return (hash >>> 0) / 2 ** 32;
}

/** Uniform in 0 … count − 1. */
export function randomInteger(count: number, ...key: number[]): number {
  return Math.floor(random(...key) * count);
}
