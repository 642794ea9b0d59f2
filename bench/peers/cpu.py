"""PyTorch's scaled_dot_product_attention and linear as a peer: one JSON case per line in, its
seconds per line out."""

import json
import sys
import time

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def median_seconds(run, budget):
    run()
    times = []
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    times.sort()
    return times[len(times) // 2]


def attention(case):
    dtype = DTYPES[case["dtype"]]
    batch, dim = case["batch"], case["dim"]
    q = torch.randn(batch, case["queryHeads"], case["queries"], dim).to(dtype)
    # Copies in turn, so that keys and values come from memory as ours do.
    kv = [
        [torch.randn(batch, case["kvHeads"], case["keys"], dim).to(dtype) for _ in range(2)]
        for _ in range(case["copies"])
    ]
    grouped = case["queryHeads"] != case["kvHeads"]
    turn = 0

    def run():
        nonlocal turn
        k, v = kv[turn % len(kv)]
        turn += 1
        scaled_dot_product_attention(q, k, v, is_causal=case["causal"], enable_gqa=grouped)

    with torch.no_grad():
        return median_seconds(run, case["seconds"])


def product(case):
    dtype = DTYPES[case["dtype"]]
    x = torch.randn(case["rows"], case["inputs"]).to(dtype)
    # Copies in turn, so that weights come from memory as ours do.
    weights = [
        torch.randn(case["outputs"], case["inputs"]).to(dtype) for _ in range(case["copies"])
    ]
    turn = 0

    def run():
        nonlocal turn
        linear(x, weights[turn % len(weights)])
        turn += 1

    with torch.no_grad():
        return median_seconds(run, case["seconds"])


def main():
    torch.manual_seed(0)
    torch.set_num_threads(int(sys.argv[1]))
    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        measure = product if "inputs" in case else attention
        print(json.dumps({"seconds": measure(case)}), flush=True)


if __name__ == "__main__":
    main()
