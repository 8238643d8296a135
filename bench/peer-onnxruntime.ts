// onnxruntime's contributed operator com.microsoft.MoE, with the router's product before it.
import type { Peer } from './peers.js';

/** The part of onnx.proto that a model of two nodes needs. */
const schema = `
syntax = "proto3";
message Attribute { string name = 1; float f = 2; int64 i = 3; bytes s = 4; int32 type = 20; }
message Node {
  repeated string input = 1; repeated string output = 2; string name = 3; string op_type = 4;
  repeated Attribute attribute = 5; string domain = 7;
}
message Tensor { repeated int64 dims = 1; int32 data_type = 2; string name = 8; bytes raw_data = 9; }
message Dim { int64 dim_value = 1; }
message Shape { repeated Dim dim = 1; }
message TensorType { int32 elem_type = 1; Shape shape = 2; }
message Type { TensorType tensor_type = 1; }
message Value { string name = 1; Type type = 2; }
message Graph {
  repeated Node node = 1; string name = 2; repeated Tensor initializer = 5; repeated Value input = 11;
  repeated Value output = 12;
}
message OperatorSet { string domain = 1; int64 version = 2; }
message Model { int64 ir_version = 1; Graph graph = 7; repeated OperatorSet opset_import = 8; }
`;

const float = 1; // TensorProto.FLOAT
const attributeType = { FLOAT: 1, INT: 2, STRING: 3 };

const bytesOf = (data: Float32Array) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** Rows of gate and up in turns, as the operator takes them. */
function interleaved(gate: Float32Array, up: Float32Array, width: number): Float32Array {
  const both = new Float32Array(2 * up.length);
  for (let row = 0; row * width < up.length; row++) {
    both.set(gate.subarray(row * width, (row + 1) * width), 2 * row * width);
    both.set(up.subarray(row * width, (row + 1) * width), (2 * row + 1) * width);
  }
  return both;
}

function transposed(matrix: Float32Array, rows: number, columns: number): Float32Array {
  return Float32Array.from(matrix, (_, i) => matrix[(i % rows) * columns + Math.floor(i / rows)]!);
}

export const onnxruntime: Peer = {
  name: 'onnxruntime',
  packages: { 'onnxruntime-node': '1.30.0', protobufjs: '8.8.1' },
  async prepare(load, { workload, threads, input, router, gate, up, down }) {
    const { hiddenSize: H, ffnSize: F, numExperts: E, topK } = workload.config;
    const ort = load('onnxruntime-node');
    const model = load('protobufjs').parse(schema, { keepCase: true }).root.lookupType('Model');
    const tensor = (name: string, dims: number[], data: Float32Array) => ({
      name,
      dims,
      data_type: float,
      raw_data: bytesOf(data),
    });
    const value = (name: string) => ({
      name,
      type: { tensor_type: { elem_type: float, shape: { dim: [workload.tokens, H].map((n) => ({ dim_value: n })) } } },
    });
    const int = (name: string, i: number) => ({ name, i, type: attributeType.INT });
    const real = (name: string, f: number) => ({ name, f, type: attributeType.FLOAT });
    const gated = [int('swiglu_fusion', 1), real('activation_alpha', 1), real('activation_beta', 0)];
    const bytes = model
      .encode({
        ir_version: 10,
        opset_import: [
          { domain: '', version: 17 },
          { domain: 'com.microsoft', version: 1 },
        ],
        graph: {
          name: 'layer',
          input: [value('x')],
          output: [value('y')],
          initializer: [
            tensor('router', [H, E], transposed(router, E, H)),
            gate ? tensor('fc1', [E, 2 * F, H], interleaved(gate, up, H)) : tensor('fc1', [E, F, H], up),
            tensor('fc2', [E, H, F], down),
          ],
          node: [
            { op_type: 'MatMul', input: ['x', 'router'], output: ['logits'] },
            {
              op_type: 'MoE',
              domain: 'com.microsoft',
              input: ['x', 'logits', 'fc1', '', 'fc2'],
              output: ['y'],
              attribute: [
                int('k', topK),
                int('normalize_routing_weights', 1),
                {
                  name: 'activation_type',
                  s: new TextEncoder().encode(workload.config.experts.activation),
                  type: attributeType.STRING,
                },
                ...(gate ? gated : []),
              ],
            },
          ],
        },
      })
      .finish();
    const session = await ort.InferenceSession.create(bytes, { intraOpNumThreads: threads, logSeverityLevel: 3 });
    const feeds = { x: new ort.Tensor('float32', input, [workload.tokens, H]) };
    return async () => (await session.run(feeds)).y.data as Float32Array;
  },
};
