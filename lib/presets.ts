// Published MoE layers at their real sizes. Each number is from the source above it: a model's own config.json or code,
// and its paper for what only training needs. No dtype is set: those of the large models were published in bfloat16.
import { checkOptions, checkSize } from './checks.js';
import { configOptions, type MoEConfig } from './config.js';

type Sizes = Pick<MoEConfig, 'hiddenSize' | 'ffnSize' | 'numExperts' | 'topK'>;

/** `options` are those of the published layer, or of one of the overridden sizes. */
function preset(
  name: string,
  sizes: Sizes,
  options: (sizes: Sizes) => Partial<MoEConfig>,
): (overrides?: Partial<MoEConfig>) => MoEConfig {
  return (overrides = {}) => {
    const given = Object.entries(checkOptions(`presets.${name}(overrides)`, overrides, configOptions));
    const own: Partial<MoEConfig> = Object.fromEntries(given.filter(([, value]) => value !== undefined));
    const chosen = { ...sizes, ...own };
    // What follows from a size needs it to be one.
    for (const size of Object.keys(sizes) as (keyof Sizes)[])
      checkSize(`presets.${name}(overrides).${size}`, chosen[size]);
    return { ...sizes, ...options(chosen), ...own };
  };
}

/**
 * `presets.mixtral8x7b({ hiddenSize: 256, ffnSize: 512 })` is a configuration for MoELayer. Any field may be overridden, as a
 * whole: `router`, say, replaces all the router's options. What follows from a size follows from the overridden one: the
 * width of shared experts is the published multiple of ffnSize, V-MoE's noise 1/numExperts.
 */
export const presets = {
  /**
   * Mixtral 8x7B. mistralai/Mixtral-8x7B-v0.1, config.json: hidden_size 4096, intermediate_size 14336, num_local_experts 8,
   * num_experts_per_tok 2, hidden_act silu, router_aux_loss_coef 0.02. That loss counts each choice by itself (Hugging Face,
   * load_balancing_loss_func), so that it is K here where ours is 1. Weights: Jiang et al. 2024, 2.1: softmax of the top 2 logits.
   */
  mixtral8x7b: preset('mixtral8x7b', { hiddenSize: 4096, ffnSize: 14336, numExperts: 8, topK: 2 }, ({ topK }) => ({
    router: { renormalize: true },
    losses: { loadBalance: 0.02 * topK },
  })),

  /**
   * DeepSeekMoE 16B. deepseek-ai/deepseek-moe-16b-base, config.json: hidden_size 2048, moe_intermediate_size 1408,
   * n_routed_experts 64, n_shared_experts 2, num_experts_per_tok 6, norm_topk_prob false, aux_loss_alpha 0.001 (the
   * expert-level factor of Dai et al. 2024, 5.1.2, where no token is dropped and the device-level loss is off). seq_aux true
   * takes the loss within each sequence: here over the batch, until losses.loadBalance has scope 'sequence' and your length.
   */
  deepseekMoE16b: preset(
    'deepseekMoE16b',
    { hiddenSize: 2048, ffnSize: 1408, numExperts: 64, topK: 6 },
    ({ ffnSize }) => ({ experts: { shared: { ffnSize: 2 * ffnSize } }, losses: { loadBalance: 0.001 } }),
  ),

  /**
   * DeepSeek-V2. deepseek-ai/DeepSeek-V2, config.json: hidden_size 5120, moe_intermediate_size 1536, n_routed_experts 160,
   * n_shared_experts 2, num_experts_per_tok 6, topk_method group_limited_greedy, n_group 8, topk_group 3, norm_topk_prob
   * false, routed_scaling_factor 16. DeepSeek-AI 2024 (arXiv 2405.04434), 3.1.2: the expert-level balance factor 0.003 it
   * was trained with (config.json has aux_loss_alpha 0.001), within each sequence (seq_aux): here over the batch, as above.
   * The device-level loss, 0.05, that goes with it is not set, since a layer has one load-balance loss; nor is the
   * communication loss, 0.02, nor the dropping of tokens by a device's budget.
   */
  deepseekV2: preset('deepseekV2', { hiddenSize: 5120, ffnSize: 1536, numExperts: 160, topK: 6 }, ({ ffnSize }) => ({
    router: { groups: { count: 8, keep: 3, score: 'max' }, weightScale: 16 },
    experts: { shared: { ffnSize: 2 * ffnSize } },
    losses: { loadBalance: 0.003 },
  })),

  /**
   * DeepSeek-V3. deepseek-ai/DeepSeek-V3, inference/configs/config_671B.json: dim 7168, moe_inter_dim 2048,
   * n_routed_experts 256, n_shared_experts 1, n_activated_experts 8, n_expert_groups 8, n_limited_groups 4, route_scale 2.5,
   * score_func sigmoid. DeepSeek-AI 2024 (arXiv 2412.19437), 4.2: bias update speed 0.001, balance factor 0.0001, whose
   * counts are those of the scores without bias (2.1.2, equation 18), within each sequence: here over the batch, as above.
   */
  deepseekV3: preset('deepseekV3', { hiddenSize: 7168, ffnSize: 2048, numExperts: 256, topK: 8 }, ({ ffnSize }) => ({
    router: {
      scoring: 'sigmoid',
      groups: { count: 8, keep: 4, score: 'top2-sum' },
      selectionBias: { rate: 0.001 },
      renormalize: true,
      weightScale: 2.5,
    },
    experts: { shared: { ffnSize } },
    losses: { loadBalance: { coefficient: 0.0001, counts: 'unbiased' } },
  })),

  /**
   * Qwen1.5-MoE-A2.7B. Qwen/Qwen1.5-MoE-A2.7B, config.json: hidden_size 2048, moe_intermediate_size 1408, num_experts 60,
   * num_experts_per_tok 4, norm_topk_prob false, shared_expert_intermediate_size 5632 = 4 · 1408 behind a sigmoid gate,
   * router_aux_loss_coef 0.001, which counts each choice by itself, as Mixtral's.
   */
  qwen15MoEA27b: preset(
    'qwen15MoEA27b',
    { hiddenSize: 2048, ffnSize: 1408, numExperts: 60, topK: 4 },
    ({ ffnSize, topK }) => ({
      experts: { shared: { ffnSize: 4 * ffnSize, gate: 'sigmoid' } },
      losses: { loadBalance: 0.001 * topK },
    }),
  ),

  /**
   * DBRX. databricks/dbrx-base, config.json: d_model 6144, ffn_hidden_size 10752, moe_num_experts 16, moe_top_k 4,
   * moe_normalize_expert_weights 1, moe_jitter_eps 0, moe_loss_weight 0.05. Its code (transformers, modeling_dbrx.py,
   * load_balancing_loss_func) counts each choice by itself, as Mixtral's, so that the loss is K here where ours is 1.
   */
  dbrx: preset('dbrx', { hiddenSize: 6144, ffnSize: 10752, numExperts: 16, topK: 4 }, ({ topK }) => ({
    router: { renormalize: { p: 1, epsilon: 0 } },
    losses: { loadBalance: 0.05 * topK },
  })),

  /**
   * Switch-Base. google/flaxformer, t5x/configs/moe/models/switch_classic_base.gin (google/switch-base-128 is its checkpoint):
   * embedding 768, MLP_DIM 3072, relu, capacity factors 1.25 in training and 2 outside, AUX_LOSS_FACTOR 0.01. Its
   * GROUP_SIZE, groups of at most 8192 tokens, is not set: the whole batch is one, or capacity.groupSize says. Fedus, Zoph &
   * Shazeer 2021: 128 experts, input jitter 0.01, which flaxformer's version has not. MeshTF gives each expert at least 4 slots.
   */
  switchBase: preset('switchBase', { hiddenSize: 768, ffnSize: 3072, numExperts: 128, topK: 1 }, () => ({
    router: { noise: { type: 'jitter', epsilon: 0.01 } },
    capacity: { type: 'fixed', factor: 1.25, evalFactor: 2, min: 4 },
    experts: { activation: 'relu' },
    losses: { loadBalance: 0.01 },
  })),

  /**
   * GLaM (64B/64E). Du et al. 2021, table 4: model width 8192, hidden width 32768, 64 experts, 2 of them for each token; 5.1:
   * GShard's gate and loss, coefficient 0.01. tensorflow/lingvo, StackedTransformer.GLaMParams and TransformerFeedForwardMoe:
   * experts of two matrices and ReLU (the gated ones are those of the dense layers), weights over their sum + 1e-9, and
   * second_expert_policy 'all': every second choice is kept, where GShard's own gate draws (router.secondChoice). GLaMParams
   * leaves the capacity to its caller; the factor 1 is GShard's 2N/(G·E) slots (Lepikhin et al. 2020, 2.2).
   */
  glam: preset('glam', { hiddenSize: 8192, ffnSize: 32768, numExperts: 64, topK: 2 }, () => ({
    router: { renormalize: { p: 1, epsilon: 1e-9 } },
    capacity: { type: 'fixed', factor: 1 },
    experts: { activation: 'relu' },
    losses: { loadBalance: { coefficient: 0.01, counts: 'first-choice' } },
  })),

  /**
   * V-MoE-B/16. google-research/vmoe, configs/vmoe_paper/pretrain_imagenet21k.py, 'ViT-B/16, E=8, K=2, Every 2': hidden_size
   * 768, mlp_dim 3072, noise_std 1/E, importance and load losses 0.005, capacity_factor 1.05 (rounded up to a multiple of 4),
   * batch_priority off, group_size 8 · 197: 8 images of (224/16)² patches and a class token. The losses there are means over
   * these groups, here of the batch. nn/vit_moe.py: two matrices with biases and flax's GELU, which is the tanh one.
   */
  vMoE: preset('vMoE', { hiddenSize: 768, ffnSize: 3072, numExperts: 8, topK: 2 }, ({ numExperts }) => ({
    router: { noise: { type: 'gaussian', std: 1 / numExperts } },
    capacity: { type: 'fixed', factor: 1.05, multipleOf: 4, groupSize: 8 * 197 },
    experts: { activation: 'gelu-tanh', bias: true },
    losses: {
      importance: { coefficient: 0.005, from: 'softmax' },
      load: { coefficient: 0.005, threshold: 'kth' },
    },
  })),

  /**
   * GPT-OSS (120b). openai/gpt-oss, gpt_oss/torch/model.py: hidden_size 2880, intermediate_size 2880, num_experts 128 (the
   * 20b: 32), experts_per_token 4, a router with bias, softmax over the chosen logits, swiglu alpha 1.702, limit 7, biases.
   * How it was trained is not published: no losses.
   */
  gptOss: preset('gptOss', { hiddenSize: 2880, ffnSize: 2880, numExperts: 128, topK: 4 }, () => ({
    router: { selectBy: 'logits', bias: true },
    experts: { activation: { type: 'clamped-swiglu', alpha: 1.702, limit: 7 }, bias: true },
  })),
};
