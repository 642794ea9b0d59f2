"""PyTorch and FlashInfer on a GPU as peers: one JSON case a line in, its answer a line out.

The first line says what runs here: {"version", "backends", "device", "l2Bytes"}; without a GPU
there is none. A case is one attention by one backend:
  backend, dtype ("bf16", "f16"), kvDtype (the same, or "f8e4m3", "f8e5m2"), queryHeads, kvHeads,
  dim, valueDim (dim), causal, seconds to measure for, copies of the inputs used in turn,
  batch, queries and keys: tokens of each request, or lists of them instead of a batch,
  pageSize: 0 for contiguous keys; what a backend cannot page it takes contiguous,
  variant: "soft_cap" (30), "alibi", "window" (1024) or "causal", which FlexAttention alone takes.
Its answer is {"seconds", "low", "high", "launches", "copies", "wrong"}: median and deciles of one
call, and the relative error against f32; or {"error"}. The backend "ceilings" needs no more and
answers {"copyGBs", "matmulTflops", "clocks"}; "product" takes cases of products.py, "rows" those
of rows.py.

Method: inputs N(0, 1), copied until they are five times the L2 cache; a CUDA graph of 20 launches
or more, replayed between two events after a warm-up.
"""

import functools
import gc
import json
import math
import os
import subprocess
import sys
import time
import traceback
from types import SimpleNamespace

import products
import rows
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

try:
    import flashinfer
except Exception:  # not installed, or not for this torch
    flashinfer = None

DEVICE = "cuda"
DTYPES = {
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
}
LEAST_LAUNCHES = 20
LONG_MS = 5.0  # a call that takes as long fills a graph by itself
LEAST_REPLAYS = 20
WARM_UP_MS = 50
COLD = 5.2  # times the L2 cache
COPIES_MOST = 640
WRONG_MOST = 0.05
CHECKED_ROWS = 16
SOFT_CAP = 30.0
WINDOW = 1024
WORKSPACE_BYTES = 512 << 20


class Skip(Exception):
    """A case that a peer does not take."""


# ---- timing


def measure(calls, seconds):
    """Seconds of one call: median and deciles."""
    for call in calls[:3]:
        call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    calls[0]()
    end.record()
    end.synchronize()
    long = start.elapsed_time(end) > LONG_MS
    launches = len(calls) * (1 if long else math.ceil(LEAST_LAUNCHES / len(calls)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for i in range(launches):
            calls[i % len(calls)]()

    def replay():
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    warm = 0.0
    while warm < WARM_UP_MS:
        warm += replay()
    deadline = time.perf_counter() + seconds
    times = []
    while len(times) < LEAST_REPLAYS or time.perf_counter() < deadline:
        times.append(replay() / 1000 / launches)
        # Very long graphs: a few replays say as much.
        if len(times) >= 7 and time.perf_counter() > deadline + 2 * seconds:
            break
    times.sort()
    count = len(times)
    return {
        "seconds": times[count // 2],
        "low": times[count // 10],
        "high": times[count * 9 // 10],
        "launches": launches,
        "copies": len(calls),
    }


def l2_bytes():
    return torch.cuda.get_device_properties(0).L2_cache_size


def copies_of(bytes_each):
    return max(1, min(COPIES_MOST, math.ceil(COLD * l2_bytes() / bytes_each)))


# ---- inputs


def parse(case):
    c = SimpleNamespace(**case)
    c.dtype, c.kv_dtype = DTYPES[case["dtype"]], DTYPES[case.get("kvDtype", case["dtype"])]
    c.value_dim = case.get("valueDim", c.dim)
    c.page_size = case.get("pageSize", 0)
    c.variant = case.get("variant")
    c.listed = isinstance(c.queries, list)
    c.queries, c.keys = (
        x if isinstance(x, list) else [x] * c.batch for x in (c.queries, c.keys)
    )
    c.batch, c.tokens, c.kept = len(c.queries), sum(c.queries), sum(c.keys)
    c.decode = max(c.queries) == 1
    c.causal = c.causal and not c.decode  # the last query sees all keys
    c.grouped = c.queryHeads != c.kvHeads
    kv = c.kept * c.kvHeads * (c.dim + c.value_dim) * c.kv_dtype.itemsize
    q = c.tokens * c.queryHeads * (c.dim + c.value_dim) * c.dtype.itemsize
    c.copies = case.get("copies", copies_of(kv + q))
    return c


def noise(dtype, *shape):
    if dtype.itemsize > 1:
        return torch.randn(*shape, device=DEVICE, dtype=dtype)
    out = torch.empty(*shape, device=DEVICE, dtype=dtype)
    for part in out.view(-1).split(1 << 27):
        part.copy_(torch.randn(part.shape, device=DEVICE))
    return out


def queries_of(c):
    return [noise(c.dtype, c.tokens, c.queryHeads, c.dim) for _ in range(c.copies)]


def starts(lengths):
    sums = [0]
    for length in lengths:
        sums.append(sums[-1] + length)
    return torch.tensor(sums, dtype=torch.int32)


# ---- check


def error_of(c, out, q, k, v):
    """Relative error of the first request's last rows; all are [tokens, heads, dim]."""
    rows = min(CHECKED_ROWS, c.queries[0])
    end = c.queries[0]
    group = c.queryHeads // c.kvHeads
    k, v = (x.float().repeat_interleave(group, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q[end - rows : end].float(), k) / math.sqrt(c.dim)
    last = torch.arange(rows, device=q.device)[:, None] + c.keys[0] - rows
    distance = torch.arange(c.keys[0], device=q.device)[None, :] - last
    if c.variant == "soft_cap":
        scores = SOFT_CAP * torch.tanh(scores / SOFT_CAP)
    if c.variant == "alibi":
        scores = scores + slopes_of(c)[:, None, None] * distance
    if c.causal:
        scores = scores.masked_fill(distance > 0, -math.inf)
    if c.variant == "window":
        scores = scores.masked_fill(distance < -WINDOW, -math.inf)
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    got = out[end - rows : end].float()
    return ((got - expected).norm() / expected.norm()).item()


# ---- PyTorch


def dense_inputs(c):
    """Copies of (q, k, v) as [batch, heads, tokens, dim]."""
    if len(set(c.queries)) > 1 or len(set(c.keys)) > 1:
        raise Skip("requests of one length only")
    if c.kv_dtype != c.dtype:
        raise Skip("keys of the queries' dtype only")

    def make(heads, length, dim):
        return noise(c.dtype, c.batch, heads, length, dim)

    return [
        (
            make(c.queryHeads, c.queries[0], c.dim),
            make(c.kvHeads, c.keys[0], c.dim),
            make(c.kvHeads, c.keys[0], c.value_dim),
        )
        for _ in range(c.copies)
    ]


def dense_calls(c, attend):
    inputs = dense_inputs(c)
    q, k, v = (x[0].transpose(0, 1) for x in inputs[0])
    error = error_of(c, attend(*inputs[0])[0].transpose(0, 1), q, k, v)
    return [functools.partial(attend, *x) for x in inputs], error


def sdpa(backend, c):
    options = {"enable_gqa": c.grouped}
    if c.causal and c.queries == c.keys:
        options["is_causal"] = True
    elif c.causal:
        options["attn_mask"] = causal_lower_right(c.queries[0], c.keys[0])

    def attend(q, k, v):
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, **options)

    return dense_calls(c, attend)


def slopes_of(c):
    return 2.0 ** (-torch.arange(1, c.queryHeads + 1, device=DEVICE) / 2)


def score_change(c, ahead):
    if c.variant == "soft_cap":
        return lambda score, b, h, query, key: SOFT_CAP * torch.tanh(score / SOFT_CAP)
    if c.variant == "alibi":
        slopes = slopes_of(c)
        return lambda score, b, h, query, key: score + slopes[h] * (key - query - ahead)
    return None


def flex(c):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()  # else the limit of recompilations is met
    mask = None
    ahead = c.keys[0] - c.queries[0]
    if c.causal:
        left = WINDOW if c.variant == "window" else c.keys[0]

        def visible(b, h, query, key):
            distance = query + ahead - key
            return (distance >= 0) & (distance <= left)

        mask = create_block_mask(visible, None, None, c.queries[0], c.keys[0], device=DEVICE)
    compiled = torch.compile(flex_attention, dynamic=False)
    return dense_calls(
        c,
        functools.partial(
            compiled, score_mod=score_change(c, ahead), block_mask=mask, enable_gqa=c.grouped
        ),
    )


def varlen(c, turn=None):
    """FlashAttention-2 over contiguous keys of requests of any lengths; `turn` changes the keys."""
    if not c.listed:
        raise Skip("lengths as lists only")
    cumulative = [starts(lengths).to(DEVICE) for lengths in (c.queries, c.keys)]
    longest = (max(c.queries), max(c.keys))
    keys = [noise(c.dtype, c.kept, c.kvHeads, c.dim) for _ in range(c.copies)]
    values = [noise(c.dtype, c.kept, c.kvHeads, c.value_dim) for _ in range(c.copies)]
    queries = queries_of(c)

    def attend(q, k, v):
        k = k if turn is None else turn(k)
        forward = torch.ops.aten._flash_attention_forward
        return forward(q, k, v, *cumulative, *longest, 0.0, c.causal, False)[0]

    inputs = list(zip(queries, keys, values))
    q, k, v = inputs[0]
    k = k if turn is None else turn(k)
    mine = (x[: c.keys[0]] for x in (k, v))
    error = error_of(c, attend(*inputs[0]), q, *mine)
    return [functools.partial(attend, *x) for x in inputs], error


def rope_then_flash(c):
    """All keys rotated by their positions into a copy (compiled), then attention."""
    if not c.listed:
        raise Skip("lengths as lists only")
    places = torch.cat([torch.arange(length, device=DEVICE) for length in c.keys])
    frequencies = 10000.0 ** (-torch.arange(0, c.dim, 2, device=DEVICE) / c.dim)
    angles = places[:, None, None] * frequencies
    cos, sin = (x.to(torch.float32) for x in (angles.cos(), angles.sin()))

    @torch.compile(dynamic=False)
    def turn(k):
        first, second = k.float().chunk(2, -1)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), -1).to(k.dtype)

    return varlen(c, turn)


# ---- FlashInfer


@functools.cache
def workspace():
    return torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=DEVICE)


def outputs_of(c):
    shape = (c.tokens, c.queryHeads, c.value_dim)
    return [torch.empty(shape, device=DEVICE, dtype=c.dtype) for _ in range(c.copies)]


def paged_inputs(c, page_size):
    """Page table (starts, shuffled pages, tokens of the last pages) and copies of the pages."""
    if c.value_dim != c.dim:
        raise Skip("paged values of the keys' dim only")
    counts = [math.ceil(keys / page_size) for keys in c.keys]
    first = starts(counts)
    pages = torch.randperm(first[-1].item()).to(torch.int32).to(DEVICE)
    last = [keys - (count - 1) * page_size for keys, count in zip(c.keys, counts)]
    table = (first, pages, torch.tensor(last, dtype=torch.int32))
    shape = (len(pages), 2, page_size, c.kvHeads, c.dim)
    return table, [noise(c.kv_dtype, *shape) for _ in range(c.copies)]


def paged_calls(c, wrapper, table, caches):
    queries, outputs = queries_of(c), outputs_of(c)
    calls = [
        functools.partial(wrapper.run, q, cache, out=out)
        for q, cache, out in zip(queries, caches, outputs)
    ]
    calls[0]()
    first, pages, _ = table
    mine = caches[0][pages[: first[1]].long()]
    k, v = (mine[:, i].flatten(0, 1)[: c.keys[0]] for i in range(2))
    return calls, error_of(c, outputs[0], queries[0], k, v)


def flashinfer_decode(c):
    page_size = c.page_size or 16
    table, caches = paged_inputs(c, page_size)
    # As its documentation advises: tensor cores once a group fills some of a tile.
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        workspace(), "NHD", use_tensor_cores=c.queryHeads >= 4 * c.kvHeads
    )
    types = {"q_data_type": c.dtype, "kv_data_type": c.kv_dtype}
    wrapper.plan(*table, c.queryHeads, c.kvHeads, c.dim, page_size, **types)
    return paged_calls(c, wrapper, table, caches)


def flashinfer_prefill(backend, c):
    options = {"causal": c.causal, "q_data_type": c.dtype, "kv_data_type": c.kv_dtype}
    query_starts = starts(c.queries)
    if c.page_size > 0:
        table, caches = paged_inputs(c, c.page_size)
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(
            workspace(), "NHD", backend=backend
        )
        heads = (c.queryHeads, c.kvHeads, c.dim, c.page_size)
        wrapper.plan(query_starts, *table, *heads, **options)
        return paged_calls(c, wrapper, table, caches)
    keys = [noise(c.kv_dtype, c.kept, c.kvHeads, c.dim) for _ in range(c.copies)]
    values = [noise(c.kv_dtype, c.kept, c.kvHeads, c.value_dim) for _ in range(c.copies)]
    queries, outputs = queries_of(c), outputs_of(c)
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace(), "NHD", backend=backend)
    dims = (c.queryHeads, c.kvHeads, c.dim, c.value_dim)
    wrapper.plan(query_starts, starts(c.keys), *dims, **options)
    calls = [
        functools.partial(wrapper.run, q, k, v, out=out)
        for q, k, v, out in zip(queries, keys, values, outputs)
    ]
    calls[0]()
    k, v = (x[0][: c.keys[0]] for x in (keys, values))
    return calls, error_of(c, outputs[0], queries[0], k, v)


def flashinfer_any(backend, c):
    if not c.decode:
        return flashinfer_prefill(backend, c)
    if backend != "auto":
        raise Skip("its decode is the same for every backend")
    return flashinfer_decode(c)


# ---- the loop

# Each prepares a case: calls to measure, and the error of their results.
BACKENDS = {
    "cudnn": functools.partial(sdpa, SDPBackend.CUDNN_ATTENTION),
    "flash": functools.partial(sdpa, SDPBackend.FLASH_ATTENTION),
    "flex": flex,
    "varlen": varlen,
    "rope-flash": rope_then_flash,
}
if flashinfer is not None:
    BACKENDS["flashinfer"] = functools.partial(flashinfer_any, "auto")
    BACKENDS["flashinfer-fa2"] = functools.partial(flashinfer_any, "fa2")


# Cases of modules of their own.
MODULES = {"product": products, "rows": rows}


def answer_to(case):
    if case["backend"] == "ceilings":
        return ceilings()
    module = MODULES.get(case["backend"])
    if case["backend"] not in BACKENDS and module is None:
        return {"error": f"no backend {case['backend']}"}
    if case.get("variant") is not None and case["backend"] != "flex":
        return {"error": "variants are for FlexAttention"}
    try:
        if module is not None:
            calls, wrong = module.prepare(case, DTYPES, DEVICE)
        else:
            calls, wrong = BACKENDS[case["backend"]](parse(case))
        if not wrong <= WRONG_MOST:
            return {"error": f"wrong results: relative error {wrong:.3g}"}
        return {**measure(calls, case["seconds"]), "wrong": wrong}
    except Skip as why:
        return {"error": str(why)}
    except Exception as failure:
        traceback.print_exc()
        lines = str(failure).strip().splitlines() or [""]
        return {"error": f"{type(failure).__name__}: {lines[0][:200]}"}


def ceilings():
    """Copy rate (read and written bytes) and matrix product, bf16, of N(0, 1)."""
    source = torch.randint(256, (1 << 31,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = measure([lambda: target.copy_(source)], 0.5)
    size = 8192
    a, b = (noise(torch.bfloat16, size, size) for _ in range(2))
    out = torch.empty_like(a)
    product = measure([lambda: torch.mm(a, b, out=out)], 0.5)
    return {
        "copyGBs": 2 * source.numel() / copy["seconds"] / 1e9,
        "matmulTflops": 2 * size**3 / product["seconds"] / 1e12,
        "clocks": clocks(),
    }


def clocks():
    """Clocks, power and driver as the driver's tool says them now, or nothing without it."""
    fields = "clocks.sm,clocks.mem,power.draw,driver_version"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def version():
    parts = [f"PyTorch {torch.__version__}", f"cuDNN {torch.backends.cudnn.version()}"]
    if flashinfer is not None:
        parts.append(f"FlashInfer {flashinfer.__version__}")
    return ", ".join(parts)


def main():
    # Answers alone go to stdout: compilers and libraries that print are sent to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer):
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()

    if not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} finds no GPU")
    device = torch.cuda.get_device_name()
    say(
        {"version": version(), "backends": list(BACKENDS), "device": device, "l2Bytes": l2_bytes()}
    )
    torch.manual_seed(0)
    for line in sys.stdin:
        with torch.no_grad():
            answer = answer_to(json.loads(line))
        # What the case held is free again before the other side of the comparison goes on.
        gc.collect()
        torch.cuda.empty_cache()
        say(answer)


if __name__ == "__main__":
    main()
