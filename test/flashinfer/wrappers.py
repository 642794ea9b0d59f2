"""FlashInfer's wrappers of batches: plan, then run."""

import math

import torch
from attend import attend, differences, halves, listed, mask_of, merge_state, number
from attend import options_of, refuse, result
from server import cannot
from theirs import said


class Recorded:
    """What a graph holds: runs, which a replay does again into the same outputs."""

    current = None


class Wrapper:
    """Wrappers of batches: `batch` says the layout, `planned` the options."""

    def __init__(self, workspace=None, kv_layout="NHD", *args, jit_args=None, **kwargs):
        if isinstance(kv_layout, bool):
            kv_layout = "NHD"
        self.hnd = kv_layout == "HND"
        self.is_cuda_graph_enabled = bool(kwargs.get("use_cuda_graph"))
        self.use_tensor_cores = bool(kwargs.get("use_tensor_cores"))
        if jit_args is not None:
            cannot("a variant as CUDA text")
        if kwargs.get("backend") in ("trtllm-gen", "cudnn", "cutlass", "cute-dsl"):
            cannot(f"backend {kwargs['backend']}")

    def reset_workspace_buffer(self, *args, **kwargs):
        pass

    def end_forward(self):
        pass

    def run_return_lse(self, *args, **kwargs):
        return self.run(*args, **{**kwargs, "return_lse": True})

    def forward(self, *args, return_lse=False, **kwargs):
        """As once: what plan says today was said here."""
        for name in list(kwargs):
            if name not in ("q_scale", "k_scale", "v_scale"):
                setattr(self.options, name, kwargs.pop(name))
        self.causal = bool(getattr(self.options, "causal", False))
        return self.run(*args, return_lse=return_lse, **kwargs)

    def forward_return_lse(self, *args, **kwargs):
        return self.forward(*args, return_lse=True, **kwargs)

    def record(self, call, out):
        """Within a capture the run is done again at each replay, into the same output."""
        if Recorded.current is not None:
            Recorded.current.append((call, out))


def paged(a, indptr, indices, last, lengths, queries, page_size):
    # What stands behind the last request is read by nobody.
    step = {"queryIndptr": listed(queries), "indptr": listed(indptr[: len(queries)])}
    used = step["indptr"][-1]
    step["indices"] = listed(indices[:used])
    if lengths is not None:
        step["kvLengths"] = listed(lengths)
    else:
        step["lastPageLength"] = listed(last)
    return {"kind": "pages", "pageSize": int(page_size), "step": step}


def keys_of(layout):
    step = layout["step"]
    if "kvLengths" in step:
        return step["kvLengths"]
    pages = differences(step["indptr"])
    size = layout["pageSize"]
    return [max(0, n - 1) * size + last for n, last in zip(pages, step["lastPageLength"])]


class PagedWrapper(Wrapper):
    def settle(self, a, layout, queries, kv_heads, causal, masks):
        refuse(a, "prefix_len_ptr", "token_pos_in_items_ptr")
        self.layout, self.masks = layout, masks
        self.kv_heads, self.causal, self.options = kv_heads, causal, a

    def attend(self, a, q, cache):
        refuse(a, "kv_cache_sf", "skip_softmax_threshold_scale_factor")
        k, v = halves(cache, self.hnd)
        options = options_of(self.options, self.kv_heads, self.causal)
        if getattr(a, "window_left", None) is not None and a.window_left >= 0:
            options["windowLeft"] = a.window_left
        scales = {"qScale": number(getattr(a, "q_scale", None)), "hnd": self.hnd}
        scales["kScale"] = number(getattr(a, "k_scale", None))
        scales["vScale"] = number(getattr(a, "v_scale", None))
        layout = {**self.layout, "pageCount": k.shape[0]}
        sinks = getattr(a, "sinks", None)
        more = None if sinks is None else {"sinkLogits": sinks.to(torch.float32)}
        if q.dtype == torch.float32 and k.dtype == torch.float16:
            cannot("queries of another dtype")
        dims = {"valueDim": v.shape[-1]}
        out, lse = getattr(a, "out", None), getattr(a, "lse", None)
        pair = attend(q, k, v, layout, options, scales, self.masks, out, lse, more, dims)
        return pair


class BatchDecodeWithPagedKVCacheWrapper(PagedWrapper):
    @said("decode.py", "BatchDecodeWithPagedKVCacheWrapper.plan")
    def plan(self, a):
        length = getattr(a, "q_len_per_req", None) or 1
        queries = [length * i for i in range(len(a.indptr))]
        layout = paged(a, a.indptr, a.indices, a.last_page_len, None, queries, a.page_size)
        self.settle(a, layout, queries, a.num_kv_heads, length > 1, {})

    @said("decode.py", "BatchDecodeWithPagedKVCacheWrapper.run")
    def run(self, a):
        pair = self.attend(a, a.q, a.paged_kv_cache)
        self.record(lambda: self.attend(a, a.q, a.paged_kv_cache), pair)
        return result(pair, a.return_lse)

    begin_forward = plan

    @said("decode.py", "BatchDecodeWithPagedKVCacheWrapper.forward")
    def forward(self, a):
        for name in ("pos_encoding_mode", "window_left", "logits_soft_cap", "sm_scale"):
            setattr(self.options, name, getattr(a, name))
        self.options.rope_scale, self.options.rope_theta = a.rope_scale, a.rope_theta
        return self.attend(a, a.q, a.paged_kv_cache)[0]


class BatchPrefillWithPagedKVCacheWrapper(PagedWrapper):
    @said("prefill.py", "BatchPrefillWithPagedKVCacheWrapper.plan")
    def plan(self, a):
        last = a.paged_kv_last_page_len
        lengths = None if last is not None else getattr(a, "seq_lens", None)
        indptr, indices = a.paged_kv_indptr, a.paged_kv_indices
        layout = paged(a, indptr, indices, last, lengths, a.qo_indptr, a.page_size)
        queries = listed(a.qo_indptr)
        keys = keys_of(layout)
        masks = mask_of(a.custom_mask, a.packed_custom_mask, differences(queries), keys)
        self.settle(a, layout, queries, a.num_kv_heads, a.causal, masks)

    @said("prefill.py", "BatchPrefillWithPagedKVCacheWrapper.run")
    def run(self, a):
        pair = self.attend(a, a.q, a.paged_kv_cache)
        self.record(lambda: self.attend(a, a.q, a.paged_kv_cache), pair)
        return result(pair, a.return_lse)

    begin_forward = plan


class BatchPrefillWithRaggedKVCacheWrapper(Wrapper):
    @said("prefill.py", "BatchPrefillWithRaggedKVCacheWrapper.plan")
    def plan(self, a):
        refuse(a, "prefix_len_ptr", "token_pos_in_items_ptr", "v_indptr", "o_indptr")
        queries, keys = listed(a.qo_indptr), listed(a.kv_indptr)
        self.layout = {"kind": "ragged", "queryIndptr": queries, "kvIndptr": keys}
        lengths = differences(queries), differences(keys)
        self.masks = mask_of(a.custom_mask, a.packed_custom_mask, *lengths)
        self.options = a

    @said("prefill.py", "BatchPrefillWithRaggedKVCacheWrapper.run")
    def run(self, a):
        refuse(a, "kv_cache_sf")
        options = options_of(self.options, self.options.num_kv_heads)
        scales = {"qScale": number(a.q_scale), "kScale": number(a.k_scale)}
        scales["vScale"] = number(a.v_scale)

        def call():
            return attend(
                a.q, a.k, a.v, self.layout, options, scales, self.masks, a.out, a.lse
            )

        pair = call()
        self.record(call, pair)
        return result(pair, a.return_lse)

    begin_forward = plan


class BatchAttention(PagedWrapper):
    @said("attention/_core.py", "BatchAttention.__init__")
    def __init__(self, a):
        super().__init__(None, a.kv_layout or "NHD")

    @said("attention/_core.py", "BatchAttention.plan")
    def plan(self, a):
        layout = paged(
            a, a.kv_indptr, a.kv_indices, None, a.kv_len_arr, a.qo_indptr, a.page_size
        )
        self.settle(a, layout, listed(a.qo_indptr), a.num_kv_heads, a.causal, {})

    @said("attention/_core.py", "BatchAttention.run")
    def run(self, a):
        if a.logits_soft_cap:
            self.options.logits_soft_cap = a.logits_soft_cap
        return self.attend(a, a.q, a.kv_cache)


class BatchMLAPagedAttentionWrapper(Wrapper):
    def __init__(self, *args, **kwargs):
        super().__init__(backend=kwargs.get("backend"))

    @said("mla/_core.py", "BatchMLAPagedAttentionWrapper.plan")
    def plan(self, a):
        layout = paged(
            a, a.kv_indptr, a.kv_indices, None, a.kv_len_arr, a.qo_indptr, a.page_size
        )
        self.layout, self.options = layout, a

    @said("mla/_core.py", "BatchMLAPagedAttentionWrapper.run")
    def run(self, a):
        refuse(a, "o_scale", "ckv_scale_arr", "page_table", "kv_len")
        scale, other = a.ckv_scale or 1.0, a.kpe_scale or 1.0
        q_pe = a.q_pe if other == scale else a.q_pe * (other / scale)
        q = torch.cat([a.q_nope, q_pe], dim=-1).contiguous()
        layout = {**self.layout, "pageCount": a.ckv_cache.shape[0]}
        tail = a.kpe_cache.shape[-1]
        options = options_of(self.options, 1)
        if tail > 0:
            options["keyTail"] = tail
        ckv, kpe = a.ckv_cache.unsqueeze(2), a.kpe_cache.unsqueeze(2)
        dims = {"valueDim": ckv.shape[-1]}
        scales = {"kScale": a.ckv_scale, "vScale": a.ckv_scale}

        def call():
            more = {"kTail": kpe} if tail > 0 else {}
            return attend(q, ckv, ckv, layout, options, scales, {}, a.out, a.lse, more, dims)

        out, lse = call()
        self.record(call, (out, lse))
        if a.return_lse_base_on_e:
            lse = lse * math.log(2)
        return result((out, lse), a.return_lse)


class MultiLevelCascadeAttentionWrapper(Wrapper):
    def __init__(self, num_levels, workspace, kv_layout="NHD", *args, **kwargs):
        super().__init__(workspace, kv_layout)

    @said("cascade.py", "MultiLevelCascadeAttentionWrapper.plan")
    def plan(self, a):
        arrays = a.qo_indptr_arr, a.paged_kv_indptr_arr, a.paged_kv_indices_arr
        steps = [
            paged(a, indptr, indices, last, None, queries, a.page_size)["step"]
            for queries, indptr, indices, last in zip(*arrays, a.paged_kv_last_page_len)
        ]
        step = {**steps[-1], "shared": steps[:-1]}
        self.layout = {"kind": "pages", "pageSize": a.page_size, "step": step}
        self.options = a

    @said("cascade.py", "MultiLevelCascadeAttentionWrapper.run")
    def run(self, a):
        k, v = halves(a.paged_kv_cache, self.hnd)
        layout = {**self.layout, "pageCount": k.shape[0]}
        options = options_of(self.options, self.options.num_kv_heads)
        return attend(a.q, k, v, layout, options, {"hnd": self.hnd}, {})[0]

    begin_forward = plan
    forward = run


class SharedPrefix(Wrapper):
    """The prefix lies in tensors, the rest in pages: rows of both, merged."""

    def prefix(self, a, causal):
        k, v = halves(a.unique_kv_cache, self.hnd)
        options = {"kvHeads": self.options.num_kv_heads}
        options["scale"] = getattr(a, "sm_scale", None)
        tokens = a.q.shape[0]
        shared = {"kind": "ragged", "queryIndptr": [0, tokens]}
        shared["kvIndptr"] = [0, a.k_shared.shape[0]]
        own = {**self.layout, "pageCount": k.shape[0]}
        first = attend(a.q, a.k_shared, a.v_shared, shared, dict(options), {}, {})
        scales = {"hnd": self.hnd}
        second = attend(a.q, k, v, own, {**options, "causal": causal}, scales, {})
        return merge_state(*first, *second)[0]


class BatchDecodeWithSharedPrefixPagedKVCacheWrapper(SharedPrefix):
    @said("cascade.py", "BatchDecodeWithSharedPrefixPagedKVCacheWrapper.begin_forward")
    def begin_forward(self, a):
        queries = range(len(a.unique_kv_indptr))
        indptr, indices = a.unique_kv_indptr, a.unique_kv_indices
        last = a.unique_kv_last_page_len
        self.layout = paged(a, indptr, indices, last, None, queries, a.page_size)
        self.options = a

    @said("cascade.py", "BatchDecodeWithSharedPrefixPagedKVCacheWrapper.forward")
    def forward(self, a):
        return self.prefix(a, False)


class BatchPrefillWithSharedPrefixPagedKVCacheWrapper(SharedPrefix):
    @said("cascade.py", "BatchPrefillWithSharedPrefixPagedKVCacheWrapper.begin_forward")
    def begin_forward(self, a):
        indptr, indices = a.paged_kv_indptr, a.paged_kv_indices
        last = a.paged_kv_last_page_len
        self.layout = paged(a, indptr, indices, last, None, a.qo_indptr, a.page_size)
        self.options = a

    @said("cascade.py", "BatchPrefillWithSharedPrefixPagedKVCacheWrapper.forward")
    def forward(self, a):
        return self.prefix(a, bool(a.causal))


class PODWithPagedKVCacheWrapper(Wrapper):
    """A prompt whose keys lie in tensors, and decodes over pages, in one plan."""

    @said("pod.py", "PODWithPagedKVCacheWrapper.plan")
    def plan(self, a):
        self.options = a

    @said("pod.py", "PODWithPagedKVCacheWrapper.run")
    def run(self, a):
        refuse(a, "custom_mask_p", "packed_custom_mask_p", "custom_mask_d", "packed_custom_mask_d")
        plan = self.options
        prompt, decodes = a.q_p.shape[0], a.q_d.shape[0]
        hnd = a.kv_layout_p == "HND"
        k_p, v_p = (t.transpose(0, 1) if hnd else t for t in (a.k_p, a.v_p))
        k, v = halves(a.paged_kv_cache_d, self.hnd)
        indptr = [0, *listed(plan.indptr)]
        layout = paged(
            a, indptr, plan.indices, None, [0], range(decodes + 2), plan.page_size
        )
        step = layout["step"]
        pages = differences(listed(plan.indptr))
        ends = listed(plan.last_page_len)
        lengths = [(n - 1) * plan.page_size + last for n, last in zip(pages, ends)]
        step["queryIndptr"] = [0, *range(prompt, prompt + decodes + 1)]
        step["kvLengths"] = [k_p.shape[0], *lengths]
        step["raggedStarts"] = [0, *[-1] * decodes]
        layout["pageCount"] = k.shape[0]
        # A single query sees all of its keys either way.
        options = options_of(plan, plan.num_kv_heads, a.causal_p)
        options["raggedRows"] = True
        if options["scale"] is None:
            options["scale"] = a.sm_scale_p or a.sm_scale_d
        more = {"kRagged": k_p, "vRagged": v_p}
        q = torch.cat([a.q_p, a.q_d])
        out, lse = attend(q, k, v, layout, options, {"hnd": self.hnd}, {}, more=more)
        own = out[:prompt], lse[:prompt]
        other = out[prompt:], lse[prompt:]
        return result(own, a.return_lse_p), result(other, a.return_lse_d)

    begin_forward = plan


class BlockSparseAttentionWrapper(Wrapper):
    def __init__(self, workspace, backend="auto"):
        super().__init__(backend=backend)

    @said("sparse.py", "BlockSparseAttentionWrapper.plan")
    def plan(self, a):
        refuse(a, "packed_mask", "block_mask")
        mask = {
            "queryIndptr": [0, a.M],
            "kvIndptr": [0, a.N],
            "blockRows": a.R,
            "blockColumns": a.C,
            "indptr": listed(a.indptr),
            "indices": listed(a.indices),
        }
        if a.mask is not None:
            mask["mask"] = listed(a.mask.reshape(-1))
        self.layout = {"kind": "blocks", "queries": a.M, "keys": a.N, "mask": mask}
        self.options = a

    @said("sparse.py", "BlockSparseAttentionWrapper.run")
    def run(self, a):
        options = options_of(self.options, a.k.shape[1])
        scales = {"qScale": number(a.scale_q)}
        pair = attend(a.q, a.k, a.v, self.layout, options, scales, {}, a.out, a.lse)
        return result(pair, a.return_lse)

    begin_forward = plan


class VariableBlockSparseAttentionWrapper(BlockSparseAttentionWrapper):
    @said("sparse.py", "VariableBlockSparseAttentionWrapper.plan")
    def plan(self, a):
        rows, columns = a.block_row_sz, a.block_col_sz
        queries, keys = int(rows[0].sum()), int(columns[0].sum())
        heads = a.num_kv_heads
        if queries * keys * heads > 1 << 24:
            cannot("a mask of more than 2^24 pairs, a list for each")
        mask = torch.zeros(queries, heads, keys, dtype=torch.uint8)
        for head in range(heads):
            wide = a.block_mask_map[head].to(torch.uint8)
            wide = wide.repeat_interleave(rows[head].long(), 0)
            mask[:, head] = wide.repeat_interleave(columns[head].long(), 1)
        said_mask = {"queryIndptr": [0, queries], "kvIndptr": [0, keys], "kvHeads": heads}
        said_mask["mask"] = mask.reshape(-1).tolist()
        self.layout = {"kind": "tokens", "queries": queries, "keys": keys, "mask": said_mask}
        self.options = a

    @said("sparse.py", "VariableBlockSparseAttentionWrapper.run")
    def run(self, a):
        q, k, v = (t.transpose(0, 1).contiguous() for t in (a.q, a.k, a.v))
        options = options_of(self.options, k.shape[1])
        out, lse = attend(q, k, v, self.layout, options, {}, {})
        return result((out.transpose(0, 1), lse.transpose(0, 1)), a.return_lse)

    begin_forward = plan


class BatchAttentionWithAttentionSinkWrapper(PagedWrapper):
    @said("attention/_core.py", "BatchAttentionWithAttentionSinkWrapper.__init__")
    def __init__(self, a):
        super().__init__(None, a.kv_layout or "NHD")
        self.window = a.window_left

    def plan(self, *args, **kwargs):
        BatchPrefillWithPagedKVCacheWrapper.plan(self, *args, **kwargs)
        if self.window is not None and self.window >= 0:
            self.options.window_left = self.window

    @said("prefill.py", "BatchPrefillWithPagedKVCacheWrapper.run")
    def run(self, a):
        sink, scale = a.extra
        a.sinks, self.options.sm_scale = sink, scale
        return result(self.attend(a, a.q, a.paged_kv_cache), a.return_lse)


def fast_decode_plan(wrapper, *args, **kwargs):
    for name in ("global_override_indptr_cpu", "non_blocking"):
        kwargs.pop(name, None)
    type(wrapper).plan(wrapper, *args, **kwargs)
