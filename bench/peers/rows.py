"""Operators over rows as torch.compile makes them, for gpu.py.

A case is {operator, dtype ("bf16", "f16"), rows, dim, copies of the tensors used in turn};
operators have the names of bench/subjects.ts, and "rope", which turns 40 heads of dim by a table of
angles. Results go to tensors that are there, so that nothing but the kernel is measured.
"""

import functools

import torch

EPS = 1e-6
HEADS = 40


# ---- operators: each writes into the last tensors that it is given


def normalised(x):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def rms_norm(x, weight, out):
    out.copy_(normalised(x) * weight)


def add_rms_norm(x, weight, residual):
    residual.copy_(x + residual)
    x.copy_(normalised(residual) * weight)


def layer_norm(x, weight, out):
    wide = x.float(), x.shape[-1:], weight.float(), weight.float()
    out.copy_(torch.nn.functional.layer_norm(*wide))


def gated(activation, x, out):
    gate, up = x.float().chunk(2, -1)
    out.copy_(activation(gate) * up)


def add(x, y, out):
    out.copy_(x + y)


def gather_rows(x, indices, out):
    out.copy_(x[indices])


def argmax(x, out):
    out.copy_(x.argmax(-1))


def quantize(x, out, scales):
    """Of the last axis."""
    scale = (x.float().abs().amax(-1) / 448).clamp_min(torch.finfo(torch.float32).tiny)
    scales.copy_(scale)
    out.copy_(x.float() / scale[..., None])


def rope(x, cos, sin):
    first, second = x.float().chunk(2, -1)
    x.copy_(torch.cat((first * cos - second * sin, first * sin + second * cos), -1))


# ---- cases


def tensors(case, dtype, device):
    """The function of a case, its tensors, and which of them it writes first."""
    rows, dim = case["rows"], case["dim"]
    noise = functools.partial(torch.randn, device=device, dtype=dtype)
    empty = functools.partial(torch.empty, device=device)
    name = case["operator"]
    weight = noise(dim)
    if name == "qk_norm":
        return rms_norm, [noise(32 * rows, dim), weight, noise(32 * rows, dim)], 2
    if name in ("rms_norm", "layer_norm"):
        return globals()[name], [noise(rows, dim), weight, noise(rows, dim)], 2
    if name == "add_rms_norm":
        return add_rms_norm, [noise(rows, dim), weight, noise(rows, dim)], 2
    if name in ("silu_and_mul", "gelu_and_mul"):
        functional = torch.nn.functional
        activation = functional.silu if name == "silu_and_mul" else functional.gelu
        return functools.partial(gated, activation), [noise(rows, 2 * dim), noise(rows, dim)], 1
    if name == "add":
        return add, [noise(rows, dim) for _ in range(3)], 2
    if name == "gather_rows":
        indices = torch.arange(rows, device=device) * 389 % rows
        return gather_rows, [noise(rows, dim), indices, noise(rows, dim)], 2
    if name == "argmax":
        few = rows // 16
        return argmax, [noise(few, dim), empty(few, dtype=torch.int32)], 1
    if name.startswith("quantize_"):
        shape = (rows, dim) if name == "quantize_token" else (rows, dim // 128, 128)
        out = empty(*shape, dtype=torch.float8_e4m3fn)
        return quantize, [noise(*shape), out, empty(*shape[:-1])], 2
    if name == "rope":
        angles = torch.rand(rows, 1, dim // 2, device=device) * 6
        return rope, [noise(rows, HEADS, dim), angles.cos(), angles.sin()], 0
    raise ValueError(f"no operator {name}")


def prepare(case, dtypes, device):
    """Calls to measure, and the relative error of the first one's result against PyTorch's."""
    torch._dynamo.reset()  # else the limit of recompilations is met
    function, first, written = tensors(case, dtypes[case["dtype"]], device)
    compiled = torch.compile(function, dynamic=False)
    expected = [x.clone() for x in first]
    function(*expected)
    compiled(*first)
    want, got = expected[written].double(), first[written].double()
    wrong = ((got - want).norm() / want.norm()).item()
    del expected, want, got
    others = [tensors(case, dtypes[case["dtype"]], device)[1] for _ in range(case["copies"] - 1)]
    return [functools.partial(compiled, *each) for each in [first, *others]], wrong
