"""Products of rows with a weight as PyTorch has them, for gpu.py.

A case is {dtype ("bf16", "f16", "f8e4m3"), rows, inputs, outputs, copies of the weight used in
turn}; fp8 takes a scale for all of x and of the weight, and gives bf16.
"""

import functools

import torch


def prepare(case, dtypes, device):
    """Calls to measure, and the relative error of the first one's result."""
    dtype = dtypes[case["dtype"]]
    rows, inputs, outputs = (case[name] for name in ("rows", "inputs", "outputs"))
    x = torch.randn(rows, inputs, device=device).to(dtype)
    weights = [torch.randn(outputs, inputs, device=device).to(dtype) for _ in range(case["copies"])]
    out = torch.empty(rows, outputs, device=device, dtype=output_type(dtype))
    if dtype.itemsize == 1:
        one = torch.ones((), device=device)
        options = {"scale_a": one, "scale_b": one, "out_dtype": out.dtype, "out": out}
        calls = [functools.partial(torch._scaled_mm, x, w.t(), **options) for w in weights]
    else:
        calls = [functools.partial(torch.mm, x, w.t(), out=out) for w in weights]
    calls[0]()
    some = x[:16].float() @ weights[0].float().t()
    return calls, ((out[:16].float() - some).norm() / some.norm()).item()


def output_type(dtype):
    return torch.bfloat16 if dtype.itemsize == 1 else dtype
