"""Writes families-golden.json: what transformers makes of small models of each family, in f32.

    pip install transformers==5.24.0 torch && python test/models/families_golden.py

Weights are a formula of their tensor's name (here and in families.test.ts), so that the file holds
none: shapes, the greedy tokens after a prompt, and the logits of the last token of the prompt.
"""

import json
from pathlib import Path

import numpy
import torch
import transformers

VOCABULARY = 266
PROMPT = [7, 70, 71, 72, 7, 3, 150, 9, 33, 8, 120, 121, 45, 7, 70, 71, 260, 14, 90, 2]
STEPS = 12

base = dict(
    vocab_size=VOCABULARY, hidden_size=64, intermediate_size=64, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, eos_token_id=264,
    rope_theta=10000.0, bos_token_id=None, pad_token_id=None, tie_word_embeddings=False,
)
gemma = dict(
    base, head_dim=32, hidden_activation="gelu_pytorch_tanh", sliding_window=6,
    query_pre_attn_scalar=20, tie_word_embeddings=True,
)

models = {
    "llama": ("LlamaForCausalLM", dict(base, model_type="llama", num_hidden_layers=2)),
    "llama3 scaling": ("LlamaForCausalLM", dict(
        base, model_type="llama", num_hidden_layers=2,
        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=32),
    )),
    "mistral": ("MistralForCausalLM", dict(
        base, model_type="mistral", num_hidden_layers=2, sliding_window=5,
    )),
    "qwen2": ("Qwen2ForCausalLM", dict(base, model_type="qwen2", num_hidden_layers=2)),
    "qwen3": ("Qwen3ForCausalLM", dict(base, model_type="qwen3", num_hidden_layers=2, head_dim=16)),
    "phi3": ("Phi3ForCausalLM", dict(base, model_type="phi3", num_hidden_layers=2)),
    "gemma2": ("Gemma2ForCausalLM", dict(
        gemma, model_type="gemma2", num_hidden_layers=3, attn_logit_softcapping=4.0,
        final_logit_softcapping=3.0,
    )),
    "gemma3": ("Gemma3ForCausalLM", dict(
        gemma, model_type="gemma3_text", num_hidden_layers=4, rope_theta=50000.0,
        rope_local_base_freq=500.0, rope_scaling=dict(rope_type="linear", factor=4.0),
        layer_types=["sliding_attention", "full_attention"] * 2,
    )),
}

deepseek = dict(
    base, hidden_size=48, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3,
    kv_lora_rank=24, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=20, n_routed_experts=8,
    n_shared_experts=2,
    moe_intermediate_size=16, num_experts_per_tok=3, first_k_dense_replace=1, n_group=4,
    topk_group=2, routed_scaling_factor=1.7,
)
models["mixtral"] = ("MixtralForCausalLM", dict(
    base, model_type="mixtral", num_hidden_layers=2, num_local_experts=5, num_experts_per_tok=2,
))
models["qwen3_moe"] = ("Qwen3MoeForCausalLM", dict(
    base, model_type="qwen3_moe", num_hidden_layers=2, head_dim=16, num_experts=6,
    num_experts_per_tok=3, moe_intermediate_size=32, norm_topk_prob=True, decoder_sparse_step=1,
    mlp_only_layers=[],
))
models["deepseek2"] = ("DeepseekV2ForCausalLM", dict(
    deepseek, model_type="deepseek_v2", q_lora_rank=None, topk_method="group_limited_greedy",
    norm_topk_prob=False,
))
models["deepseek3"] = ("DeepseekV3ForCausalLM", dict(
    deepseek, model_type="deepseek_v3", q_lora_rank=12, norm_topk_prob=True,
    rope_scaling=dict(type="yarn", rope_type="yarn", factor=8.0, beta_fast=32, beta_slow=1,
                      mscale=1.0, mscale_all_dim=1.0, original_max_position_embeddings=32),
))


def hashed(name: str, shape: list[int]) -> numpy.ndarray:
    """Numbers in [-0.5, 0.5) by a tensor's name and place."""
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 % 2**32
    x = numpy.arange(int(numpy.prod(shape)), dtype=numpy.uint64) * 2654435761 + seed
    x = x % 2**32
    x ^= x >> numpy.uint64(16)
    x = x * 2246822519 % 2**32
    x ^= x >> numpy.uint64(13)
    return (x / 2**32 - 0.5).reshape(shape)


def weight(name: str, shape: list[int], centred: bool) -> numpy.ndarray:
    values = hashed(name, shape)
    if len(shape) > 1:
        # Gemma multiplies its embedding by the root of its width.
        factor = 0.15 if centred and "embed" in name else 1
        return values * numpy.sqrt(24 / shape[-1]) * factor
    return values * 0.8 + (1 if name.lower().endswith("norm.weight") and not centred else 0)


def stored(name: str, shape: list[int], kind: str) -> list[tuple[str, list[int]]]:
    """The tensors that files have for a parameter, which stand below each other in it."""
    mixtral = kind.startswith("Mixtral")
    if mixtral and "mlp.gate." in name:
        return [(name.replace("mlp.gate", "block_sparse_moe.gate"), shape)]
    if ".experts." not in name or "shared" in name:
        return [(name, shape)]
    at, part = name.rsplit(".", 1)
    parts = dict(gate_up_proj=["gate_proj", "up_proj"], down_proj=["down_proj"])[part]
    if mixtral:
        at = at.replace("mlp", "block_sparse_moe")
        parts = [dict(gate_proj="w1", up_proj="w3", down_proj="w2")[part] for part in parts]
    count, rows, columns = shape
    own = [rows // len(parts), columns]
    return [(f"{at}.{e}.{part}.weight", own) for e in range(count) for part in parts]


def golden(kind: str, config: dict) -> dict:
    made = getattr(transformers, kind).config_class(**config)
    made._attn_implementation = "eager"
    model = getattr(transformers, kind)(made).float().eval()
    tied = config["tie_word_embeddings"]
    tensors = {}
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if "inv_freq" in name or "embed_scale" in name or (tied and name == "lm_head.weight"):
            continue
        shape = list(parameter.shape)
        parts = stored(name, shape, kind)
        tensors |= dict(parts)
        centred = config["model_type"].startswith("gemma")
        values = numpy.concatenate([weight(*part, centred) for part in parts]).reshape(shape)
        parameter.data.copy_(torch.from_numpy(values.astype(numpy.float32)))
    model.tie_weights()
    tokens = list(PROMPT)
    margin = float("inf")
    first = None
    with torch.no_grad():
        for _ in range(STEPS):
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].double()
            if first is None:
                first = [round(value, 5) for value in logits.tolist()]
            best = torch.topk(logits, 2).values
            margin = min(margin, float(best[0] - best[1]))
            tokens.append(int(logits.argmax()))
    print(kind, "margin", margin, tokens[len(PROMPT):])
    return dict(config=config, tensors=tensors, tokens=tokens[len(PROMPT):], logits=first)


def encoded(config: dict) -> dict:
    """What BERT makes of the prompt and of its first five tokens: means of the last states."""
    made = transformers.BertConfig(**config)
    model = transformers.BertModel(made, add_pooling_layer=False).eval()
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[name] = list(parameter.shape)
        values = weight(name, tensors[name], False)
        parameter.data.copy_(torch.from_numpy(values.astype(numpy.float32)))
    vectors = []
    with torch.no_grad():
        for count in [len(PROMPT), 5]:
            mean = model(torch.tensor([PROMPT[:count]])).last_hidden_state[0].double().mean(0)
            vectors.append([round(value, 6) for value in (mean / mean.norm()).tolist()])
    return dict(config=config, tensors=tensors, vectors=vectors)


bert = dict(
    model_type="bert", vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2,
    num_attention_heads=3, intermediate_size=96, max_position_embeddings=64, hidden_act="gelu",
    layer_norm_eps=1e-12, type_vocab_size=2,
)
torch.manual_seed(0)
result = {name: golden(kind, config) for name, (kind, config) in models.items()}
text = json.dumps(dict(
    transformers=transformers.__version__, prompt=PROMPT, models=result, bert=encoded(bert),
))
Path(__file__).with_name("families-golden.json").write_text(text + "\n")
