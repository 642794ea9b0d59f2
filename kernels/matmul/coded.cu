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
#include "load.h"
#include "thin.h"

// ---- facts

constexpr int coded_threads = 288; // eight warps that multiply, one that loads
constexpr int coded_most = 8;
constexpr int coded_outputs = 128;
constexpr int coded_8_shared = 108544;
constexpr int coded_32_shared = 215040;
constexpr int unit_inputs = 16;
constexpr int part_groups = 4; // a part of a step has so many groups
constexpr int panel_inputs = 64; // of x, in 128 bytes
constexpr int most_panels = 4;
static_assert(coded_threads == 32 * (multiplying_warps + 1), "the roles of its warps");

using Coded8 = ThinShape<8, coded_outputs, 5, most_panels>;
using Coded32 = ThinShape<32, coded_outputs, 6, most_panels>;
static_assert(sizeof(Coded8::Shared) <= coded_8_shared &&
                  sizeof(Coded32::Shared) <= coded_32_shared,
              "the launch gives as much");

#if FB_ARCH >= 900 && FB_ARCH < 1000

FB_DEVICE int32_t coded_step(const fb_matmul_params& p) {
    return p.weight_dtype == FB_U8 ? 2 * span : span;
}

// ---- load

// By a whole warp, of which one lane loads.
template <class S>
FB_DEVICE void load_coded(const fb_matmul_map_params& maps, typename S::R& ring) {
    const fb_matmul_params& p = maps.product;
    const int32_t step = coded_step(p), panels = step / panel_inputs;
    const Part part(p.inputs, step);
    const bool leads = threadIdx.x % 32 == 0;
    constexpr uint32_t panel = S::tokens * span;
    Turn<typename S::R> turn;
    each_few<S>(p, [&](const Item<S::outputs>& item) {
        const WeightRows<S> weight(p, item);
        FB_NO_UNROLL
        for (int32_t k = part.begin; leads && k < part.end; k += step) {
            const uint32_t full = begin_stage(ring, turn, S::R::first_bytes + panels * panel);
            weight.load(maps.weight, ring, turn.stage, full, k / step * span);
            const uint32_t x = S::x_place(ring, turn.stage);
            for (int i = 0; i < panels; i++)
                tensor_load(x + i * panel, &maps.x, full, {k + i * panel_inputs, item.row});
            turn.advance();
        }
    });
}

// ---- scales

// How codes are held, and what belongs to them; of fp8 there are neither groups nor minimums.
template <int held_, bool fine_ = false, bool has_minimums_ = false> struct Codes {
    static constexpr int held = held_;
    static constexpr bool fine = fine_; // groups of 16 inputs, not 32 or 128
    static constexpr bool has_minimums = has_minimums_;
    static constexpr bool is_fp8 = held == FB_F8E4M3 || held == FB_F8E5M2;
    static constexpr int codes_per_byte = held == FB_U8 ? 2 : 1;
    static constexpr int step = codes_per_byte * span;
    static constexpr int group_units = fine ? 1 : 2; // of a group of 128 inputs a quarter
    static constexpr int part = part_groups * group_units * unit_inputs;
};

// What belongs to a row's groups of a part: pairs of f16.
template <bool fine> struct GroupScales {
    uint32_t words[part_groups / 2];

    FB_DEVICE void load(uint64_t scales, uint32_t row, int32_t k, int32_t group) {
        if (fine || group == 32) {
            const uint32_t at = row + k / (fine ? 16 : 32);
            const uint2 v = *items<const uint2>(scales + 2 * uint64_t(at));
            words[0] = v.x;
            words[1] = v.y;
        } else {
            words[0] = words[1] = 0x10001 * items<const uint16_t>(scales)[row + k / 128];
        }
    }

    // Of group `first`, which is even, or the one behind it.
    FB_DEVICE float at(int first, int i) const {
        const uint32_t pair = first == 0 ? words[0] : words[1];
        return i == 0 ? f16_low(pair) : f16_high(pair);
    }
};

// What a part of a lane's two rows of the weight is multiplied by.
template <class C> struct PartScales {
    GroupScales<C::fine> scales[2], minimums[2];
    float blocks[2]; // of fp8

    FB_DEVICE void load(const fb_matmul_params& p, const int32_t (&rows)[2], int32_t k) {
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            const uint32_t row = uint32_t(rows[h]) * uint32_t(p.scale_stride);
            if constexpr (C::is_fp8) blocks[h] = step_weight_scale(p, rows[h], k);
            else scales[h].load(p.scales, row, k, p.scale_inputs);
            if constexpr (C::has_minimums) minimums[h].load(p.minimums, row, k, p.scale_inputs);
        }
    }

    FB_DEVICE float scale(int h, int first, int i) const {
        if constexpr (C::is_fp8) return blocks[h];
        else return scales[h].at(first, i);
    }
};

// ---- multiply

template <int type>
FB_DEVICE void multiply_unit(float (&sums)[4], const uint32_t (&a)[4], uint2 x) {
    if constexpr (type == FB_F16) mma_m16n8k16_f16(sums, a, x.x, x.y);
    else mma_m16n8k16_bf16(sums, a, x.x, x.y);
}

// Four codes of a row that a unit takes of a piece.
template <int type, class C>
FB_DEVICE void widen_unit(uint32_t codes, int unit, uint32_t (&pairs)[2]) {
    if constexpr (C::held == FB_U8)
        widen_nibbles<type>(codes >> (unit % 2 * 4), !C::has_minimums, pairs);
    else if constexpr (C::held == FB_I8) widen_bytes<type>(codes, pairs);
    else widen_fp8<type>(codes, C::held == FB_F8E5M2, pairs);
}

// A lane's products of two groups with all rows of x, added to its totals. `weight` and `x` are
// where the first piece of its rows lies, under the swizzle; group `first` of a part is even.
template <int type, class C, class S>
FB_DEVICE void multiply_groups(uint32_t weight, uint32_t x, const PartScales<C>& of, int first,
                               float (&totals)[S::tokens / 2]) {
    constexpr int blocks = S::tokens / 8;
    const uint32_t one = type == FB_F16 ? 0x3c003c00 : 0x3f803f80;
    const uint32_t ones[4] = {one, one, one, one};
    uint32_t codes[2]; // of rows g and g + 8
    FB_UNROLL
    for (int group = 0; group < 2; group++) {
        float sums[blocks][4] = {}, of_x[blocks][4] = {};
        FB_UNROLL
        for (int i = 0; i < C::group_units; i++) {
            const int unit = group * C::group_units + i;
            if (unit % C::codes_per_byte == 0) {
                const uint32_t piece = weight ^ uint32_t(unit / C::codes_per_byte * 16);
                codes[0] = load_shared_4(piece);
                codes[1] = load_shared_4(piece + eight_rows);
            }
            uint32_t low[2], high[2];
            widen_unit<type, C>(codes[0], unit, low);
            widen_unit<type, C>(codes[1], unit, high);
            const uint32_t a[4] = {low[0], high[0], low[1], high[1]};
            const uint32_t inputs = (x ^ uint32_t(unit % 4 * 32)) + unit / 4 * (S::tokens * span);
            FB_UNROLL
            for (int j = 0; j < blocks; j++) {
                const uint2 pairs = load_shared_8(inputs + j * eight_rows);
                multiply_unit<type>(sums[j], a, pairs);
                if constexpr (C::has_minimums) multiply_unit<type>(of_x[j], ones, pairs);
            }
        }
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            const float scale = of.scale(h, first, group);
            float minimum = 0;
            if constexpr (C::has_minimums) minimum = of.minimums[h].at(first, group);
            FB_UNROLL
            for (int i = 0; i < 2 * blocks; i++) {
                const int j = i / 2, c = 2 * h + i % 2;
                float& total = totals[4 * j + c];
                total = fmaf(sums[j][c], scale, total);
                if constexpr (C::has_minimums) total = fmaf(of_x[j][c], minimum, total);
            }
        }
    }
}

// A block's part of the sums of an item.
template <int type, class C, class S>
FB_DEVICE void multiply_coded(const fb_matmul_params& p, const Item<S::outputs>& item,
                              typename S::R& ring, Turn<typename S::R>& turn,
                              float (&sums)[S::tokens / 2]) {
    const Part part(p.inputs, C::step);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int own = threadIdx.x / 32 * 16 + g;
    int32_t rows[2];
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        // Past the last row sums go nowhere: any row's scales will do.
        const int32_t row = item.weight_row(p, own + 8 * h);
        rows[h] = row < 0 ? item.first_of(p, false) : row;
    }
    PartScales<C> now, next;
    if (part.begin < part.end) next.load(p, rows, part.begin);
    FB_NO_UNROLL
    for (int32_t k = part.begin; k < part.end; k += C::step) {
        wait_full(ring, turn);
        const uint32_t weight =
            shared_address(ring.first[turn.stage]) + own * span + g * 16 + 4 * t;
        const uint32_t x = shared_address(ring.second[turn.stage]) + g * span +
                           uint32_t(t / 2 ^ g) * 16 + t % 2 * 8;
        FB_NO_UNROLL
        for (int at = 0; at < C::step; at += C::part) {
            now = next;
            const int32_t after = k + at + C::part;
            if (after < part.end) next.load(p, rows, after);
            FB_NO_UNROLL
            for (int first = 0; first < part_groups; first += 2) {
                const int inputs = at + first * C::group_units * unit_inputs;
                const uint32_t panels = inputs / panel_inputs * (S::tokens * span);
                const uint32_t within = inputs % panel_inputs * 2;
                multiply_groups<type, C, S>(weight ^ uint32_t(inputs / C::codes_per_byte),
                                            (x ^ within) + panels, now, first, sums);
            }
        }
        __syncwarp();
        release<1>(ring, turn.stage);
        turn.advance();
    }
}

// The same by what belongs to codes of a kind: FB_U8, FB_I8, or FB_F8E4M3 for both of fp8.
template <int type, int kind, class S>
FB_DEVICE void multiply_kind(const fb_matmul_params& p, const Item<S::outputs>& item,
                             typename S::R& ring, Turn<typename S::R>& turn,
                             float (&sums)[S::tokens / 2]) {
    if constexpr (kind == FB_F8E4M3) {
        if (p.weight_dtype == FB_F8E4M3)
            multiply_coded<type, Codes<FB_F8E4M3>, S>(p, item, ring, turn, sums);
        else multiply_coded<type, Codes<FB_F8E5M2>, S>(p, item, ring, turn, sums);
    } else {
        const bool fine = p.scale_inputs == 16, has_minimums = p.minimums != 0;
        if (fine && has_minimums)
            multiply_coded<type, Codes<kind, true, true>, S>(p, item, ring, turn, sums);
        else if (fine) multiply_coded<type, Codes<kind, true>, S>(p, item, ring, turn, sums);
        else if (has_minimums)
            multiply_coded<type, Codes<kind, false, true>, S>(p, item, ring, turn, sums);
        else multiply_coded<type, Codes<kind>, S>(p, item, ring, turn, sums);
    }
}

// ---- the kernels

template <int type, int kind, class S>
FB_DEVICE void run_coded(const fb_matmul_params& p, typename S::Shared& shared) {
    Turn<typename S::R> turn;
    uint32_t parity = 0;
    each_few<S>(p, [&](const Item<S::outputs>& item) {
        ThinSums<S> sums = {};
        multiply_kind<type, kind, S>(p, item, shared.ring, turn, sums);
        share_sums<kind == FB_F8E4M3, S>(p, item, shared, parity, int(threadIdx.x / 128), sums);
    });
}

template <int type, int kind, class S>
FB_DEVICE void start_coded(const fb_matmul_map_params& maps, unsigned char* memory) {
    auto& shared = *reinterpret_cast<typename S::Shared*>(memory);
    begin_thin<S>(maps, shared);
    pdl_wait();
    pdl_launch_dependents();
    if (uniform(threadIdx.x / 32) == multiplying_warps) load_coded<S>(maps, shared.ring);
    else run_coded<type, kind, S>(maps.product, shared);
    cluster_sync(); // nobody leaves while others may still read its sums or arrive here
}

#define FB_CODED(type, kind, S) \
    FB_DYNAMIC_SHARED(memory);  \
    start_coded<type, kind, S>(p, memory)
#else
#define FB_CODED(type, kind, S)
#endif

FB_SPLIT_OPERATOR(matmul_coded_bf16_u8_8, fb_matmul_map_params, coded_threads, 2, coded_outputs,
                  coded_most, coded_8_shared) {
    FB_CODED(FB_BF16, FB_U8, Coded8);
}

FB_SPLIT_OPERATOR(matmul_coded_bf16_u8_32, fb_matmul_map_params, coded_threads, 1, coded_outputs,
                  coded_most, coded_32_shared) {
    FB_CODED(FB_BF16, FB_U8, Coded32);
}

FB_SPLIT_OPERATOR(matmul_coded_bf16_i8_8, fb_matmul_map_params, coded_threads, 2, coded_outputs,
                  coded_most, coded_8_shared) {
    FB_CODED(FB_BF16, FB_I8, Coded8);
}

FB_SPLIT_OPERATOR(matmul_coded_bf16_i8_32, fb_matmul_map_params, coded_threads, 1, coded_outputs,
                  coded_most, coded_32_shared) {
    FB_CODED(FB_BF16, FB_I8, Coded32);
}

FB_SPLIT_OPERATOR(matmul_coded_bf16_fp8_8, fb_matmul_map_params, coded_threads, 2, coded_outputs,
                  coded_most, coded_8_shared) {
    FB_CODED(FB_BF16, FB_F8E4M3, Coded8);
}

FB_SPLIT_OPERATOR(matmul_coded_bf16_fp8_32, fb_matmul_map_params, coded_threads, 1, coded_outputs,
                  coded_most, coded_32_shared) {
    FB_CODED(FB_BF16, FB_F8E4M3, Coded32);
}

FB_SPLIT_OPERATOR(matmul_coded_f16_u8_8, fb_matmul_map_params, coded_threads, 2, coded_outputs,
                  coded_most, coded_8_shared) {
    FB_CODED(FB_F16, FB_U8, Coded8);
}

FB_SPLIT_OPERATOR(matmul_coded_f16_u8_32, fb_matmul_map_params, coded_threads, 1, coded_outputs,
                  coded_most, coded_32_shared) {
    FB_CODED(FB_F16, FB_U8, Coded32);
}

FB_SPLIT_OPERATOR(matmul_coded_f16_i8_8, fb_matmul_map_params, coded_threads, 2, coded_outputs,
                  coded_most, coded_8_shared) {
    FB_CODED(FB_F16, FB_I8, Coded8);
}

FB_SPLIT_OPERATOR(matmul_coded_f16_i8_32, fb_matmul_map_params, coded_threads, 1, coded_outputs,
                  coded_most, coded_32_shared) {
    FB_CODED(FB_F16, FB_I8, Coded32);
}

FB_SPLIT_OPERATOR(matmul_coded_f16_fp8_8, fb_matmul_map_params, coded_threads, 2, coded_outputs,
                  coded_most, coded_8_shared) {
    FB_CODED(FB_F16, FB_F8E4M3, Coded8);
}

FB_SPLIT_OPERATOR(matmul_coded_f16_fp8_32, fb_matmul_map_params, coded_threads, 1, coded_outputs,
                  coded_most, coded_32_shared) {
    FB_CODED(FB_F16, FB_F8E4M3, Coded32);
}
