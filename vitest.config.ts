// Each file runs in a process of its own: a crash of the addon then fails one file and names it.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // SWITCHYARD_TEST_FULL is set by `npm run test:full`; the tests that read it run longer cases.
    testTimeout: process.env.SWITCHYARD_TEST_FULL ? 20 * 60_000 : 5 * 60_000,
    hookTimeout: 5 * 60_000,
    retry: 0,
  },
});
