// Products of 16-bit rows with weights in codes on Hopper: integers of four or eight bits with a
// scale for each group of inputs, and fp8. A warp multiplies 16 rows of the weight by mma.sync: its
// codes go from the ring to registers and become numbers there. They are multiplied as they are,
// exactly; scales belong to the sums of a group.
//
// A unit is 16 inputs. Lane t of four takes inputs 4t to 4t + 3 of it from both operands: the order
// within a product is free as long as both have the same one. 16 bytes of a row are a piece: one
// unit of bytes, or two of four bits, in the low and in the high halves.
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../ptx/mma.h"
#include "codes.h"
#include "thin.h"

// ---- facts

constexpr int coded_threads = 288; // eight warps that multiply, one that loads
constexpr int coded_most = 8;
constexpr int coded_outputs = 128;
constexpr int coded_8_shared = 108544;
constexpr int coded_32_shared = 215040;
constexpr int unit_inputs = 16;
constexpr int panel_inputs = 64; // of x, in 128 bytes
constexpr int most_panels = 4;
static_assert(coded_threads == 32 * (multiplying_warps + 1), "the roles of its warps");

using Coded8 = ThinShape<8, coded_outputs, 5, most_panels>;
using Coded32 = ThinShape<32, coded_outputs, 6, most_panels>;
static_assert(sizeof(Coded8::Shared) <= coded_8_shared &&
                  sizeof(Coded32::Shared) <= coded_32_shared,
              "the launch gives as much");

#if FB_ARCH >= 900 && FB_ARCH < 1000

// How codes are held: FB_U8 (two in a byte), FB_I8, or FB_F8E4M3 for both kinds of fp8.
template <int held> constexpr int coded_step = held == FB_U8 ? 256 : 128;
template <int held> constexpr int panels_of = coded_step<held> / panel_inputs;

// ---- load

// By a whole warp, of which one lane loads.
template <int held, class S>
FB_DEVICE void load_coded(const fb_matmul_map_params& maps, typename S::R& ring) {
    using I = Item<S::outputs>;
    const fb_matmul_params& p = maps.product;
    const Part part(p.inputs, coded_step<held>);
    const int32_t count = I::count(p, S::tokens), size = int32_t(cluster_size());
    const bool leads = threadIdx.x % 32 == 0;
    constexpr uint32_t panel = S::tokens * span;
    Turn<typename S::R> turn;
    FB_NO_UNROLL
    for (int32_t i = blockIdx.x / size; i < count; i += gridDim.x / size) {
        const I item(p, S::tokens, i);
        if (item.row >= item.end) continue;
        const int32_t gates = item.first_of(p, false) + item.output;
        const int32_t ups = p.gated ? item.first_of(p, true) + item.output
                                    : gates + S::outputs / 2;
        FB_NO_UNROLL
        for (int32_t k = part.begin; leads && k < part.end; k += coded_step<held>) {
            const uint32_t full =
                begin_stage(ring, turn, S::R::first_bytes + panels_of<held> * panel);
            const uint32_t weight = shared_address(ring.first[turn.stage]);
            const int32_t byte = held == FB_U8 ? k / 2 : k;
            FB_UNROLL
            for (int row = 0; row < S::outputs; row += thin_box_rows) {
                const int32_t at = row < S::outputs / 2 ? gates + row
                                                        : ups + row - S::outputs / 2;
                tensor_load(weight + row * span, &maps.weight, full, {byte, at});
            }
            const uint32_t x = shared_address(ring.second[turn.stage]);
            FB_UNROLL
            for (int i = 0; i < panels_of<held>; i++)
                tensor_load(x + i * panel, &maps.x, full, {k + i * panel_inputs, item.row});
            turn.advance();
        }
    }
}

// ---- scales

// Scales of a warp's 16 rows and a step's groups, up to 16 of them: lane l has half of those of row
// l / 2, in pairs.
struct GroupScales {
    uint32_t words[4];

    // `each` scales of a lane, which lie as their size wants it.
    FB_DEVICE void load(uint64_t address, int each) {
        if (each == 8) {
            const uint4 v = *items<const uint4>(address);
            words[0] = v.x;
            words[1] = v.y;
            words[2] = v.z;
            words[3] = v.w;
        } else if (each == 4) {
            const uint2 v = *items<const uint2>(address);
            words[0] = v.x;
            words[1] = v.y;
        } else if (each == 2) {
            words[0] = *items<const uint32_t>(address);
        } else {
            words[0] = *items<const uint16_t>(address);
        }
    }

    // That of a row and the i-th of its lane's, to all lanes that ask for the row.
    FB_DEVICE float at(int lane, int i) const {
        const uint32_t low = i & 2 ? words[1] : words[0], high = i & 2 ? words[3] : words[2];
        const uint32_t pair = __shfl_sync(~0u, i & 4 ? high : low, lane);
        return i & 1 ? f16_high(pair) : f16_low(pair);
    }
};

// What a step's sums are multiplied by, and what is added to codes: of rows g and g + 8.
template <int held> struct StepScales {
    GroupScales scales, minimums;
    float blocks[2]; // of fp8

    FB_DEVICE void load(const fb_matmul_params& p, const int32_t (&rows)[2], int32_t lane_row,
                        int32_t k) {
        if constexpr (held == FB_F8E4M3) {
            FB_UNROLL
            for (int h = 0; h < 2; h++) blocks[h] = step_weight_scale(p, rows[h], k);
        } else {
            const int groups = coded_step<held> / p.scale_inputs;
            const int each = groups > 1 ? groups / 2 : 1;
            const int64_t at = lane_row * p.scale_stride + k / p.scale_inputs +
                               (groups > 1 ? threadIdx.x % 2 * each : 0);
            scales.load(p.scales + 2 * at, each);
            if (p.minimums != 0) minimums.load(p.minimums + 2 * at, each);
        }
    }
};

// ---- multiply

template <int type>
FB_DEVICE void multiply_unit(float* sums, const uint32_t (&a)[4], uint2 x) {
    float(&d)[4] = *reinterpret_cast<float(*)[4]>(sums);
    if constexpr (type == FB_F16) mma_m16n8k16_f16(d, a, x.x, x.y);
    else mma_m16n8k16_bf16(d, a, x.x, x.y);
}

// A warp's sums of a stage, with all rows of x, added to its totals.
template <int type, int held, class S>
FB_DEVICE void multiply_coded(const fb_matmul_params& p, typename S::R& ring, int stage,
                              const StepScales<held>& of, float (&totals)[S::tokens / 2]) {
    constexpr int blocks = S::tokens / 8, per_piece = held == FB_U8 ? 2 : 1;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint32_t weight = shared_address(ring.first[stage]) + (16 * warp + g) * span + 4 * t;
    const uint32_t x = shared_address(ring.second[stage]) + g * span;
    const bool has_minimums = held != FB_F8E4M3 && p.minimums != 0;
    const int of_group = held == FB_F8E4M3 ? coded_step<held> : p.scale_inputs;
    const int groups = coded_step<held> / of_group, each = groups > 1 ? groups / 2 : 1;
    const uint32_t one = type == FB_F16 ? 0x3c003c00 : 0x3f803f80;
    const uint32_t ones[4] = {one, one, one, one};
    float sums[S::tokens / 2] = {}, of_x[S::tokens / 2] = {};
    uint32_t codes = 0, codes_8 = 0; // of rows g and g + 8
    FB_UNROLL
    for (int unit = 0; unit < coded_step<held> / unit_inputs; unit++) {
        uint32_t a[4], low[2], high[2];
        if (unit % per_piece == 0) {
            const uint32_t piece = uint32_t(unit / per_piece ^ g) * 16;
            codes = load_shared_4(weight + piece);
            codes_8 = load_shared_4(weight + 8 * span + piece);
        }
        if constexpr (held == FB_U8) {
            const int shift = unit % 2 * 4;
            widen_nibbles<type>(codes >> shift, !has_minimums, low);
            widen_nibbles<type>(codes_8 >> shift, !has_minimums, high);
        } else if constexpr (held == FB_I8) {
            widen_bytes<type>(codes, low);
            widen_bytes<type>(codes_8, high);
        } else {
            widen_fp8<type>(codes, p.weight_dtype == FB_F8E5M2, low);
            widen_fp8<type>(codes_8, p.weight_dtype == FB_F8E5M2, high);
        }
        a[0] = low[0];
        a[1] = high[0];
        a[2] = low[1];
        a[3] = high[1];
        const uint32_t panel = x + unit / 4 * (S::tokens * span);
        const uint32_t inputs = uint32_t((unit % 4 * 2 + t / 2) ^ g) * 16 + t % 2 * 8;
        FB_UNROLL
        for (int j = 0; j < blocks; j++) {
            const uint2 pairs = load_shared_8(panel + j * eight_rows + inputs);
            multiply_unit<type>(sums + 4 * j, a, pairs);
            if (has_minimums) multiply_unit<type>(of_x + 4 * j, ones, pairs);
        }
        if ((unit + 1) * unit_inputs % of_group != 0) continue;
        const int group = unit * unit_inputs / of_group;
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            const int lane = 2 * (g + 8 * h) + group / each, i = group % each;
            float scale;
            if constexpr (held == FB_F8E4M3) scale = of.blocks[h];
            else scale = of.scales.at(lane, i);
            const float minimum = has_minimums ? of.minimums.at(lane, i) : 0;
            FB_UNROLL
            for (int j = 0; j < blocks; j++) {
                FB_UNROLL
                for (int c = 2 * h; c < 2 * h + 2; c++) {
                    float& total = totals[4 * j + c];
                    total = fmaf(sums[4 * j + c], scale, total);
                    if (has_minimums) total = fmaf(of_x[4 * j + c], minimum, total);
                    sums[4 * j + c] = of_x[4 * j + c] = 0;
                }
            }
        }
    }
}

// ---- the kernels

template <int type, int held, class S>
FB_DEVICE void run_coded(const fb_matmul_params& p, typename S::Shared& shared) {
    using I = Item<S::outputs>;
    const Part part(p.inputs, coded_step<held>);
    const int32_t count = I::count(p, S::tokens), size = int32_t(cluster_size());
    const int group = uniform(threadIdx.x / 128);
    const int first = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
    Turn<typename S::R> turn;
    uint32_t parity = 0;
    FB_NO_UNROLL
    for (int32_t i = blockIdx.x / size; i < count; i += gridDim.x / size) {
        const I item(p, S::tokens, i);
        if (item.row >= item.end) continue;
        // Past the last row sums go nowhere: any row's scales will do.
        const auto row_at = [&](int at) {
            const int32_t row = item.weight_row(p, at);
            return row < 0 ? item.first_of(p, false) : row;
        };
        const int32_t rows[2] = {row_at(first + lane / 4), row_at(first + lane / 4 + 8)};
        const int32_t lane_row = row_at(first + lane / 2);
        ThinSums<S> sums = {};
        StepScales<held> now, next;
        if (part.begin < part.end) next.load(p, rows, lane_row, part.begin);
        FB_NO_UNROLL
        for (int32_t k = part.begin; k < part.end; k += coded_step<held>) {
            now = next;
            if (k + coded_step<held> < part.end)
                next.load(p, rows, lane_row, k + coded_step<held>);
            wait_full(shared.ring, turn);
            multiply_coded<type, held, S>(p, shared.ring, turn.stage, now, sums[0]);
            __syncwarp();
            release<1>(shared.ring, turn.stage);
            turn.advance();
        }
        share_sums<held == FB_F8E4M3, S>(p, item, shared, parity, group, sums);
        parity ^= 1;
    }
}

template <int type, int held, class S>
FB_DEVICE void split_roles(const fb_matmul_map_params& maps, typename S::Shared& shared) {
    if (uniform(threadIdx.x / 32) == multiplying_warps) load_coded<held, S>(maps, shared.ring);
    else run_coded<type, held, S>(maps.product, shared);
}

template <int type, class S>
FB_DEVICE void start_coded(const fb_matmul_map_params& maps, unsigned char* memory) {
    auto& shared = *reinterpret_cast<typename S::Shared*>(memory);
    begin_thin<S>(maps, shared);
    pdl_wait();
    pdl_launch_dependents();
    const int32_t held = maps.product.weight_dtype;
    if (held == FB_U8) split_roles<type, FB_U8, S>(maps, shared);
    else if (held == FB_I8) split_roles<type, FB_I8, S>(maps, shared);
    else split_roles<type, FB_F8E4M3, S>(maps, shared);
    cluster_sync(); // nobody leaves while others may still read its sums or arrive here
}

#define FB_CODED(type, S)      \
    FB_DYNAMIC_SHARED(memory); \
    start_coded<type, S>(p, memory)
#else
#define FB_CODED(type, S)
#endif

FB_SPLIT_OPERATOR(matmul_coded_bf16_8, fb_matmul_map_params, coded_threads, 1, coded_outputs,
                  coded_most, coded_8_shared) {
    FB_CODED(FB_BF16, Coded8);
}

FB_SPLIT_OPERATOR(matmul_coded_bf16_32, fb_matmul_map_params, coded_threads, 1, coded_outputs,
                  coded_most, coded_32_shared) {
    FB_CODED(FB_BF16, Coded32);
}

FB_SPLIT_OPERATOR(matmul_coded_f16_8, fb_matmul_map_params, coded_threads, 1, coded_outputs,
                  coded_most, coded_8_shared) {
    FB_CODED(FB_F16, Coded8);
}

FB_SPLIT_OPERATOR(matmul_coded_f16_32, fb_matmul_map_params, coded_threads, 1, coded_outputs,
                  coded_most, coded_32_shared) {
    FB_CODED(FB_F16, Coded32);
}
