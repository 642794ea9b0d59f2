// What index tensors of an attention hold, looked at before its kernels follow them.
#include "../ptx/base.h"
#include "../params/contents.h"
#include "../ptx/pdl.h"
#include "../common/operator.h"

// ---- facts

constexpr int contents_threads = 256;
constexpr int contents_warps = contents_threads / 32;
constexpr int pages = 0;
constexpr int masks = 1;

static_assert(contents_threads == 32 * contents_warps, "a warp has a record");

// ---- compute

// The first entries that lead out, as the report has them.
struct Found {
    uint64_t first[2];

    FB_DEVICE void add(int kind, int64_t entry, int32_t held, uint64_t copy) {
        const uint64_t seen = uint64_t(entry) << 32 | uint32_t(held);
        if (seen < first[kind]) first[kind] = seen;
        if (copy != 0) items<int32_t>(copy)[entry] = 0;
    }
};

FB_DEVICE void copy_entries(uint64_t source, uint64_t target, int32_t count) {
    for (int32_t i = threadIdx.x; i < count; i += contents_threads)
        items<int32_t>(target)[i] = items<const int32_t>(source)[i];
}

// Most tokens of K/V of the requests that a record serves, where only the device knows them.
FB_DEVICE int32_t longest(const fb_attention_params& a, int32_t token, int32_t end) {
    if (a.kv_lengths == 0) return 0x7fffffff;
    int32_t most = 0;
    for (; token < end; token++) {
        const int32_t request = items<const int32_t>(a.token_requests)[token];
        const int32_t length = request < 0 ? 0 : items<const int32_t>(a.kv_lengths)[request];
        if (length > most) most = length;
    }
    return most;
}

FB_DEVICE void look_at_pages(const fb_contents_params& p, const fb_attention_record& r,
                             int32_t most, Found& found) {
    const fb_attention_params& a = p.attention;
    const int32_t size = a.page_size;
    const int32_t* const table = items<const int32_t>(a.page_table);
    const int32_t* const columns = items<const int32_t>(a.columns) + r.column_offset;
    const int64_t row = int64_t(r.slot) * a.table_stride + r.position_start / size;
    const int32_t end = r.kv_end / size + (r.kv_end % size != 0);
    for (int32_t i = r.kv_start / size + threadIdx.x % 32; i < end; i += 32) {
        const int32_t column = r.column_offset < 0 ? i : columns[i] >> 1;
        if (r.position_start + int64_t(column) * size >= most) break;
        const int32_t page = table[row + column];
        if (page < 0 || page >= a.page_count) found.add(pages, row + column, page, p.pages_copy);
    }
}

// The planned lengths count.
FB_DEVICE void look_at_masks(const fb_contents_params& p, int32_t token, int32_t end,
                             Found& found) {
    const fb_attention_params& a = p.attention;
    for (token += threadIdx.x % 32; token < end; token += 32) {
        const int32_t request = items<const int32_t>(a.token_requests)[token];
        if (request < 0) continue;
        const int32_t* const starts = items<const int32_t>(a.query_indptr) + request;
        const int64_t queries = starts[1] - starts[0];
        const int64_t keys = a.mask_mode == FB_MASK_TAIL
                                 ? queries
                                 : items<const int32_t>(a.planned_kv_lengths)[request];
        const int64_t bytes = (queries * keys + (1 << a.mask_shift) - 1) >> a.mask_shift;
        const int32_t start = items<const int32_t>(a.mask_indptr)[request];
        if (start < 0 || start + bytes > int64_t(a.mask_elements))
            found.add(masks, request, start, p.masks_copy);
    }
}

// ---- the kernel

// All records, by one block.
FB_OPERATOR(attention_contents, fb_contents_params, contents_threads, 1, 1) {
    FB_SHARED(uint64_t, firsts, [2 * contents_threads]);
    pdl_wait();
    const fb_attention_params& a = p.attention;
    if (blockIdx.x > 0) return;
    copy_entries(a.page_table, p.pages_copy, p.pages_entries);
    copy_entries(a.mask_indptr, p.masks_copy, p.masks_entries);
    __syncthreads();
    Found found = {{~uint64_t(0), ~uint64_t(0)}};
    for (int32_t i = threadIdx.x / 32; i < a.record_count; i += contents_warps) {
        const fb_attention_record& r = items<const fb_attention_record>(a.records)[i];
        if (r.row_count <= 0) continue;
        const int32_t token = r.row_start / r.query_head_count;
        const int32_t end = (r.row_start + r.row_count - 1) / r.query_head_count + 1;
        if (a.page_count > 0 && a.contiguous == 0)
            look_at_pages(p, r, longest(a, token, end), found);
        if (a.mask_mode != FB_MASK_NONE) look_at_masks(p, token, end, found);
    }
    for (int kind = 0; kind < 2; kind++)
        firsts[kind * contents_threads + threadIdx.x] = found.first[kind];
    __syncthreads();
    if (threadIdx.x < 2) {
        uint64_t* const report = items<uint64_t>(p.report) + threadIdx.x;
        for (int i = 0; i < contents_threads; i++) {
            const uint64_t seen = firsts[threadIdx.x * contents_threads + i];
            if (seen < *report) *report = seen;
        }
    }
}
