"""Tokens per second of transformers' continuous batching, for rows of bench:serving.

Usage: python bench/peers/serving.py [--clients 64] [--requests 64] [--prompt 1024] [--output 256]
    [--layers 32] [--hidden 4096]

Llama 3.1 8B's shape with random weights in bf16 on a GPU, random prompts, greedy. All requests are
there at once, `clients` of them run. Prints JSON: tokens per second from the first request on, and
the medians of times to the first token and between tokens.
"""

import argparse
import json
import statistics
import time

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

parser = argparse.ArgumentParser()
counts = {"clients": 64, "requests": 64, "prompt": 1024, "output": 256}
counts |= {"layers": 32, "hidden": 4096}
for name, count in counts.items():
    parser.add_argument(f"--{name}", type=int, default=count)


def model_of(layers, hidden):
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 2,
        num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 512,
        vocab_size=128256,
        max_position_embeddings=131072,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"), transformers.initialization.no_init_weights():
        model = LlamaForCausalLM(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(std=weight.shape[-1] ** -0.5)
        else:
            weight.data.fill_(1)
    return model.eval()


def run(model, requests, clients, prompt, output):
    prompts = torch.randint(0, 128000, (requests, prompt)).tolist()
    greedy = GenerationConfig(
        max_new_tokens=output, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    # Room for all of them; else it is sized by the memory that is free.
    config = ContinuousBatchingConfig(max_requests_per_batch=clients, max_memory_percent=0.6)
    began = time.perf_counter()
    results = model.generate_batch(
        prompts, greedy, continuous_batching_config=config, record_timestamps=True
    )
    done = list(results.values())
    wrong = [each.error for each in done if each.error is not None]
    wrong += [len(each.generated_tokens) for each in done if len(each.generated_tokens) != output]
    if wrong or len(done) != requests:
        raise RuntimeError(f"{len(done)} of {requests} requests, wrong: {wrong[:3]}")
    first = min(each.created_time for each in done)
    times = [each.timestamps for each in done]
    seconds = max(each[-1] for each in times) - first
    between = [b - a for each in times for a, b in zip(each, each[1:])]
    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "attention": model.config._attn_implementation,
        "requests": requests,
        "clients": clients,
        "outputTokensPerSecond": requests * output / seconds,
        "ttftMs": 1e3 * statistics.median(each[0] - first for each in times),
        "itlMs": 1e3 * statistics.median(between),
        "secondsWithWarmUp": time.perf_counter() - began,
    }


if __name__ == "__main__":
    args = parser.parse_args()
    model = model_of(args.layers, args.hidden)
    print(json.dumps(run(model, args.requests, args.clients, args.prompt, args.output)), flush=True)
