"""Attention of one batch, as the library takes it, and states, pages and bits."""

import torch
from server import NAMES, cannot, name_of, server
from theirs import said


def listed(values):
    return None if values is None else [int(value) for value in values]


def differences(indptr):
    return [b - a for a, b in zip(indptr, indptr[1:])]


def number(value):
    """A scale as one number; those by head have no counterpart at run."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            cannot("scales of queries, or of heads, in one tensor")
        return float(value)
    return float(value)


def positions_of(a):
    """Options for how positions are encoded."""
    mode = getattr(a, "pos_encoding_mode", None) or "NONE"
    if mode == "NONE":
        return {}
    if mode == "ALIBI":
        return {"alibi": True}
    rope = {"theta": getattr(a, "rope_theta", None) or 1e4, "interleaved": False}
    scale = getattr(a, "rope_scale", None) or 1.0
    if scale != 1:
        rope["scaling"] = {"kind": "linear", "factor": scale}
    return {"rope": rope}


def mask_of(mask, packed, queries, keys):
    """A mask of bools, or of packed bits, and the first element of each request."""
    if mask is None and packed is None:
        return {}
    pairs = [q * k for q, k in zip(queries, keys)]
    if mask is None:
        bits = packed.reshape(-1)
        sizes = [(count + 7) // 8 for count in pairs]
    else:
        bits = mask.reshape(-1).to(torch.bool)
        sizes = pairs
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return {"maskBits": bits, "maskIndptr": torch.tensor(starts, dtype=torch.int32)}


def attend(q, k, v, layout, options, settings, masks, out=None, lse=None, more=None, dims=None):
    """One run; returns the output and its log-sum-exp, base 2."""
    heads, dim = q.shape[1], q.shape[2]
    value_dim = (dims or {}).get("valueDim", v.shape[-1])
    out_type = options.pop("out", None)
    if isinstance(out_type, str):
        out_type = getattr(torch, out_type)
    out_type = out_type or (out.dtype if out is not None else q.dtype)
    if out is None:
        out = torch.empty(q.shape[0], heads, value_dim, dtype=out_type)
    if lse is None:
        lse = torch.empty(q.shape[0], heads, dtype=torch.float32)
    if masks:
        options = {**options, "mask": "all", "causal": False}
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        cannot("queries of 8 bits")
    sinks = (more or {}).get("sinkLogits")
    shape = {
        "queryHeads": heads,
        "headDim": dim,
        "valueDim": value_dim,
        "dtype": name_of(q.dtype),
        "kvDtype": name_of(k.dtype),
        "outDtype": name_of(out.dtype),
        "lseBase": "2",
    }
    if sinks is not None:
        shape["sinks"] = True
    given = {**shape, **{key: value for key, value in options.items() if value is not None}}
    # -1 and less is no window, 0 no cap.
    if given.get("windowLeft", -1) < 0:
        given.pop("windowLeft", None)
    if not given.get("softCap"):
        given.pop("softCap", None)
    tensors = {"q": q, "k": k, "v": v, **masks, **(more or {}), "out": out, "lse": lse}
    settings = {key: value for key, value in settings.items() if value is not None}
    server.call(
        "attention", tensors, ("out", "lse"), options=given, settings=settings, layout=layout
    )
    return out, lse


def options_of(a, kv_heads, causal=None):
    return {
        "kvHeads": kv_heads,
        "causal": bool(getattr(a, "causal", False) if causal is None else causal),
        "windowLeft": getattr(a, "window_left", None),
        "softCap": getattr(a, "logits_soft_cap", None),
        "scale": getattr(a, "sm_scale", None),
        "out": getattr(a, "o_data_type", None),
        **positions_of(a),
        **({"batchInvariant": True} if splits_fixed(a) else {}),
    }


def splits_fixed(a):
    return bool(getattr(a, "fixed_split_size", None) or getattr(a, "disable_split_kv", False))


def halves(cache, layout):
    """Keys and values of a paged cache, in one tensor or two."""
    if isinstance(cache, torch.Tensor):
        return cache[:, 0], cache[:, 1]
    return cache


def result(pair, return_lse):
    return pair if return_lse else pair[0]


def refuse(a, *names):
    for name in names:
        if getattr(a, name, None) is not None:
            cannot(name)


@said("decode.py", "single_decode_with_kv_cache")
def single_decode_with_kv_cache(a):
    k, v = (t.transpose(0, 1) if a.kv_layout == "HND" else t for t in (a.k, a.v))
    layout = {"kind": "ragged", "queryIndptr": [0, 1], "kvIndptr": [0, k.shape[0]]}
    scales = {"qScale": number(a.q_scale), "kScale": number(a.k_scale)}
    scales["vScale"] = number(a.v_scale)
    options = options_of(a, k.shape[1], causal=False)
    out, lse = attend(a.q[None], k, v, layout, options, scales, {})
    return result((out[0], lse[0]), a.return_lse)


@said("prefill.py", "single_prefill_with_kv_cache")
def single_prefill_with_kv_cache(a):
    refuse(a, "kv_cache_sf")
    k, v = (t.transpose(0, 1) if a.kv_layout == "HND" else t for t in (a.k, a.v))
    queries, keys = a.q.shape[0], k.shape[0]
    layout = {"kind": "ragged", "queryIndptr": [0, queries], "kvIndptr": [0, keys]}
    scales = {"qScale": number(a.scale_q)}
    scales["kScale"] = number(a.scale_k if a.k_scale is None else a.k_scale)
    scales["vScale"] = number(a.scale_v if a.v_scale is None else a.v_scale)
    masks = mask_of(a.custom_mask, a.packed_custom_mask, [queries], [keys])
    options = {**options_of(a, k.shape[1]), "out": a.o_dtype}
    return result(attend(a.q, k, v, layout, options, scales, masks), a.return_lse)


def single_prefill_with_kv_cache_return_lse(*args, **kwargs):
    return single_prefill_with_kv_cache(*args, **{**kwargs, "return_lse": True})


# ---- states, pages, bits


def merge_state(v_a, s_a, v_b, s_b):
    out, lse = torch.empty_like(v_a), torch.empty_like(s_a, dtype=torch.float32)
    states = {"out0": v_a, "lse0": s_a.float(), "out1": v_b, "lse1": s_b.float()}
    server.call("merge", {**states, "to": out, "toLse": lse}, ("to", "toLse"))
    return out, lse


def merge_state_in_place(v, s, v_other, s_other, mask=None):
    states = {"out0": v, "lse0": s, "out1": v_other, "lse1": s_other}
    flags = None if mask is None else mask.to(torch.bool)
    # In place is one memory here: what is merged into comes back from where it was.
    out, lse = v.clone(), s.clone()
    more = {"to": out, "toLse": lse, "mask": flags}
    server.call("merge", {**states, **more}, ("to", "toLse"))
    v.copy_(out)
    s.copy_(lse)


def merge_states(v, s):
    # Theirs is [tokens, states, heads, dim].
    v, s = v.transpose(0, 1).contiguous(), s.float().transpose(0, 1).contiguous()
    out, lse = torch.empty_like(v[0]), torch.empty_like(s[0])
    server.call("stack", {"out": v, "lse": s, "to": out, "toLse": lse}, ("to", "toLse"))
    return out, lse


def append(planes, a, indices, indptr, hnd):
    tensors = {"requests": a.batch_indices, "positions": a.positions}
    tensors.update(pageTable=indices, indptr=indptr)
    written = []
    for i, (rows, pages) in enumerate(planes):
        # A cache in one tensor lies in one memory: each half is handed over by itself.
        tensors[f"rows{i}"], tensors[f"pages{i}"] = rows, pages.contiguous()
        written.append((f"pages{i}", pages))
    server.call("append", tensors, [name for name, _ in written], settings={"hnd": hnd})
    for name, pages in written:
        pages.copy_(tensors[name])


@said("page.py", "append_paged_kv_cache")
def append_paged_kv_cache(a):
    k, v = halves(a.paged_kv_cache, a.kv_layout)
    planes = [(a.append_key, k), (a.append_value, v)]
    append(planes, a, a.kv_indices, a.kv_indptr, a.kv_layout == "HND")


@said("page.py", "append_paged_mla_kv_cache")
def append_paged_mla_kv_cache(a):
    planes = [(a.append_ckv, a.ckv_cache), (a.append_kpe, a.kpe_cache)]
    append(planes, a, a.kv_indices, a.kv_indptr, False)


def get_seq_lens(kv_indptr, kv_last_page_len, page_size):
    pages = kv_indptr[1:] - kv_indptr[:-1]
    return torch.clamp(pages - 1, min=0) * page_size + kv_last_page_len


def get_batch_indices_positions(append_indptr, seq_lens, nnz, *args, **kwargs):
    requests, positions = torch.empty(nnz, dtype=torch.int32), torch.empty(nnz, dtype=torch.int32)
    for r, (start, end) in enumerate(zip(listed(append_indptr), listed(append_indptr)[1:])):
        requests[start:end] = r
        positions[start:end] = torch.arange(end - start) + int(seq_lens[r]) - (end - start)
    return requests, positions


def packbits(x, bitorder="big"):
    bits = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8)
    tensors = {"bools": x.to(torch.bool).contiguous(), "bits": bits}
    server.call("pack", tensors, ("bits",), settings={"big": int(bitorder == "big")})
    return bits


def segment_packbits(x, indptr, bitorder="big"):
    starts = listed(indptr)
    sizes = [(count + 7) // 8 for count in differences(starts)]
    ends = torch.tensor([sum(sizes[:i]) for i in range(len(sizes) + 1)], dtype=indptr.dtype)
    bits = torch.empty(int(ends[-1]), dtype=torch.uint8)
    tensors = {"bools": x.to(torch.bool).contiguous(), "bits": bits}
    settings = {"big": int(bitorder == "big")}
    server.call("pack", tensors, ("bits",), settings=settings, numbers={"indptr": starts})
    return bits, ends
