// TensorFlow.js on its WebAssembly backend, with the operations that it has: rows gathered by expert, dense products, and
// a scatter that adds.
import { dirname } from 'node:path';
import type { Peer } from './peers.js';

const version = '4.22.0';

export const tensorflow: Peer = {
  name: 'tensorflow.js',
  packages: { '@tensorflow/tfjs-core': version, '@tensorflow/tfjs-backend-wasm': version },
  async prepare(load, { workload, threads, input, router, gate, up, down }) {
    const { hiddenSize: H, ffnSize: F, numExperts: E, topK } = workload.config;
    const T = workload.tokens;
    const tf = load('@tensorflow/tfjs-core');
    const wasm = load('@tensorflow/tfjs-backend-wasm');
    wasm.setWasmPaths(`${dirname(load.resolve('@tensorflow/tfjs-backend-wasm'))}/`);
    wasm.setThreadsCount(threads);
    await tf.setBackend('wasm');
    const x = tf.tensor2d(input, [T, H]);
    const routerWeight = tf.tensor2d(router, [E, H]);
    const perExpert = (data: Float32Array, rows: number, columns: number) =>
      Array.from({ length: E }, (_, e) =>
        tf.tensor2d(data.subarray(e * rows * columns, (e + 1) * rows * columns), [rows, columns]),
      );
    const [gates, ups, downs] = [gate && perExpert(gate, F, H), perExpert(up, F, H), perExpert(down, H, F)];
    return async () => {
      const { indices, weights } = tf.tidy(() => {
        const chosen = tf.topk(tf.matMul(x, routerWeight, false, true), topK);
        return { indices: chosen.indices, weights: tf.softmax(chosen.values) };
      });
      const [chosen, scales] = [await indices.data(), await weights.data()];
      const rowsOf = Array.from({ length: E }, () => ({ tokens: [] as number[], scales: [] as number[] }));
      for (let slot = 0; slot < T * topK; slot++) {
        const own = rowsOf[chosen[slot]]!;
        own.tokens.push(Math.floor(slot / topK));
        own.scales.push(scales[slot]);
      }
      const output = tf.tidy(() => {
        const rows = rowsOf.flatMap(({ tokens, scales }, e) => {
          if (tokens.length === 0) return [];
          const gathered = tf.gather(x, tf.tensor1d(tokens, 'int32'));
          const upward = tf.matMul(gathered, ups[e], false, true);
          const gateward = gates && tf.matMul(gathered, gates[e], false, true);
          const a = gateward ? tf.mul(tf.mul(gateward, tf.sigmoid(gateward)), upward) : tf.relu(upward);
          return [tf.mul(tf.matMul(a, downs[e], false, true), tf.tensor2d(scales, [scales.length, 1]))];
        });
        const tokens = rowsOf.flatMap((own) => own.tokens);
        const order = tf.tensor2d(tokens, [tokens.length, 1], 'int32');
        return tf.scatterND(order, tf.concat(rows), [T, H]);
      });
      const data = (await output.data()) as Float32Array;
      for (const tensor of [indices, weights, output]) tensor.dispose();
      return data;
    };
  },
};
