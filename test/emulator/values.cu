// Numbers in, numbers out: conversions, approximations, loads, stores and special registers.
#include "conformance.h"

#include "attention/hooks.h"
#include "common/angles.h"
#include "ptx/convert.h"
#include "ptx/math.h"
#include "ptx/memory.h"
#include "ptx/pdl.h"
#include "ptx/special.h"

// Pairs of floats to words of: bf16x2, f16x2, e4m3x2 | e5m2x2 << 16
FB_KERNEL(from_floats, probe, 128, 1) {
    const float* in = reinterpret_cast<const float*>(p.in);
    for (int i = int(threadIdx.x); i < p.numbers[0]; i += int(blockDim.x)) {
        const float low = in[2 * i], high = in[2 * i + 1];
        uint32_t* out = words_out(p) + i * 4;
        out[0] = pack_bf16(low, high);
        out[1] = pack_f16(low, high);
        out[2] = pack_e4m3(low, high) | uint32_t(pack_e5m2(low, high)) << 16;
        out[3] =
            float_to_bf16(low) ^ float_to_f16(high) << 8 ^ float_to_e4m3(low) ^ float_to_e5m2(high);
    }
}

// All pairs of bytes (x, 255 - x) to f16x2, both kinds; all 16-bit patterns to floats.
FB_KERNEL(to_floats, probe, 128, 1) {
    uint32_t* out = words_out(p);
    for (uint32_t i = threadIdx.x; i < 65536; i += blockDim.x) {
        out[i] = __float_as_uint(f16_to_float(uint16_t(i)));
        out[65536 + i] = __float_as_uint(bf16_to_float(uint16_t(i)));
    }
    for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x) {
        out += 131072;
        const uint32_t pair = i | (255 - i) << 8;
        uint32_t four[2];
        out[4 * i] = e4m3x2_to_f16x2(uint16_t(pair));
        out[4 * i + 1] = e5m2x2_to_f16x2(uint16_t(pair));
        e4m3x4_to_f16x4(pair | i << 16 | i << 24, four);
        out[4 * i + 2] = four[1];
        e5m2x4_to_f16x4(pair | i << 16 | i << 24, four);
        out[4 * i + 3] = four[1];
        out -= 131072;
    }
}

FB_KERNEL(products, probe, 128, 1) {
    const uint32_t* in = words_in(p);
    for (int i = int(threadIdx.x); i < p.numbers[0]; i += int(blockDim.x)) {
        words_out(p)[2 * i] = mul_f16x2(in[2 * i], in[2 * i + 1]);
        words_out(p)[2 * i + 1] = mul_bf16x2(in[2 * i], in[2 * i + 1]);
    }
}

FB_KERNEL(approximations, probe, 128, 1) {
    const float* in = reinterpret_cast<const float*>(p.in);
    float* out = reinterpret_cast<float*>(p.out);
    for (int i = int(threadIdx.x); i < p.numbers[0]; i += int(blockDim.x)) {
        out[9 * i] = exp2_approx(in[i]);
        out[9 * i + 1] = log2_approx(in[i]);
        out[9 * i + 2] = rcp_approx(in[i]);
        out[9 * i + 3] = rsqrt_approx(in[i]);
        out[9 * i + 4] = tanh_approx(in[i]);
        out[9 * i + 5] = sqrt_approx(in[i]);
        out[9 * i + 6] = div_approx(3, in[i]);
        out[9 * i + 7] = sin_approx(fmaxf(-3.14f, fminf(in[i], 3.14f)));
        out[9 * i + 8] = cos_approx(fmaxf(-3.14f, fminf(in[i], 3.14f)));
    }
}

// Angles, of any number of turns.
FB_KERNEL(angles, probe, 128, 1) {
    const float* in = reinterpret_cast<const float*>(p.in);
    float* out = reinterpret_cast<float*>(p.out);
    for (int i = int(threadIdx.x); i < p.numbers[0]; i += int(blockDim.x)) {
        out[2 * i] = sin_f32(in[i]);
        out[2 * i + 1] = cos_f32(in[i]);
    }
}

FB_KERNEL(whole_numbers, probe, 128, 1) {
    const float* in = reinterpret_cast<const float*>(p.in);
    for (int i = int(threadIdx.x); i < p.numbers[0]; i += int(blockDim.x))
        words_out(p)[i] = uint32_t(float_to_i32(in[i]));
}

// Each thread copies 128 bytes in pieces of every size, through shared memory where that has words.
FB_KERNEL(moves, probe, 32, 1) {
    FB_SHARED(uint4, buffer, [64]);
    const char* in = reinterpret_cast<const char*>(p.in) + threadIdx.x * 128;
    char* out = reinterpret_cast<char*>(p.out) + threadIdx.x * 128;
    const uint64_t first = policy_evict_first(), last = policy_evict_last();
    const uint32_t mine = shared_address(buffer) + threadIdx.x * 32;
    store_16(out, load_nc_16(in));
    store_16(out + 16, load_nc_once_16(in + 16));
    store_16(out + 32, load_nc_policy_16(in + 32, first));
    store_16(out + 48, load_nc_policy_16(in + 48, last));
    store_8(out + 64, load_nc_8(in + 64));
    store_4(out + 72, load_nc_4(in + 72));
    store_4(out + 76, load_nc_4(in + 76));
    store_shared_16(mine, load_nc_16(in + 80));
    store_shared_8(mine + 16, load_nc_8(in + 96));
    store_shared_4(mine + 24, load_nc_4(in + 104));
    store_shared_4(mine + 28, load_nc_4(in + 108));
    store_16(out + 80, load_shared_16(mine));
    store_16(out + 96, load_shared_16(mine + 16));
    store_8(out + 112, make_uint2(load_shared_4(mine + 12), load_shared_4(mine)));
    prefetch_l1(in);
    prefetch_l2(in + 64);
    prefetch_l2_bulk(in, 128);
    store_4(out + 120, buffer[threadIdx.x * 2].y);
    store_4(out + 124, 0);
}

// Cosines and sines of numbers[0] pairs' rates, which come first, at numbers[1] positions.
FB_KERNEL(rotation_angles, probe, 128, 1) {
    const int pairs = p.numbers[0];
    const auto* rates = reinterpret_cast<const TurnRate*>(p.in);
    const auto* positions = reinterpret_cast<const int32_t*>(p.in) + 2 * pairs;
    for (int i = int(threadIdx.x); i < pairs * p.numbers[1]; i += int(blockDim.x)) {
        const Angle angle = angle_at(positions[i / pairs], rates[i % pairs]);
        words_out(p)[2 * i] = __float_as_uint(angle.cos);
        words_out(p)[2 * i + 1] = __float_as_uint(angle.sin);
    }
}

// Blocks count up and the last one signals; every block waits for that.
FB_KERNEL(counts, probe, 32, 1) {
    uint32_t* out = words_out(p);
    if (threadIdx.x == 0) {
        if (atomic_add_acq_rel_4(out, 1) == gridDim.x - 1) store_release_4(out + 1, 7);
        while (load_acquire_4(out + 1) != 7) spin_pause();
        reduce_add_release_4(out + 2, blockIdx.x);
        reduce_add_f32(reinterpret_cast<float*>(out + 3), 0.5f);
    }
}

FB_KERNEL(special, probe, 64, 1) {
    pdl_launch_dependents();
    pdl_wait();
    uint32_t* out = words_out(p) + threadIdx.x * 4;
    const uint64_t before = global_timer();
    out[0] = lane_index();
    out[1] = elect_one();
    out[2] = global_timer() >= before && before > 0;
    out[3] = elect_one();
}
