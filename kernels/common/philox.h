// Random numbers by place: Philox 4x32 of ten rounds (Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011).
#pragma once
#include "../ptx/base.h"
#include "../ptx/memory.h"

// What a number is for: different ones never meet.
enum Purpose : uint32_t { draw_token = 0, accept_draft = 1, draw_rest = 2 };

struct Philox {
    uint64_t key;
    uint64_t position;
    Purpose purpose;

    // Four numbers of which `index` is the place.
    FB_DEVICE uint4 at(uint32_t index) const {
        uint4 c = start(index);
        uint32_t low = uint32_t(key);
        uint32_t high = uint32_t(key >> 32);
        FB_UNROLL
        for (int round = 0; round < 10; round++) {
            c = next(c, low, high);
            low += 0x9e3779b9u;
            high += 0xbb67ae85u;
        }
        return c;
    }

    FB_DEVICE uint4 start(uint32_t index) const {
        return {index, uint32_t(purpose), uint32_t(position), uint32_t(position >> 32)};
    }

    static FB_DEVICE uint4 next(uint4 c, uint32_t low, uint32_t high) {
        return {__umulhi(0xcd9e8d57u, c.z) ^ c.y ^ low, 0xcd9e8d57u * c.z,
                __umulhi(0xd2511f53u, c.x) ^ c.w ^ high, 0xd2511f53u * c.x};
    }
};

// What the numbers of one key and position have in common: memory that all threads read, which is
// less work than adding, and takes no registers.
struct PhiloxKeys {
    uint4 start;
    uint4 rounds[5]; // what the key adds in two rounds: low, high, low, high

    // By threads 0 to 5.
    FB_DEVICE void set(const Philox& random) {
        if (threadIdx.x == 5) start = random.start(0);
        if (threadIdx.x >= 5) return;
        const uint32_t low = uint32_t(random.key) + 2 * threadIdx.x * 0x9e3779b9u;
        const uint32_t high = uint32_t(random.key >> 32) + 2 * threadIdx.x * 0xbb67ae85u;
        rounds[threadIdx.x] = make_uint4(low, high, low + 0x9e3779b9u, high + 0xbb67ae85u);
    }

    // Philox::at by keys at an address in shared memory.
    static FB_DEVICE uint4 at(uint32_t keys, uint32_t index) {
        uint4 c = load_shared_16(keys);
        c.x = index;
        FB_UNROLL
        for (int i = 1; i <= 5; i++) {
            const uint4 two = load_shared_16(keys + uint32_t(sizeof(uint4)) * i);
            c = Philox::next(Philox::next(c, two.x, two.y), two.z, two.w);
        }
        return c;
    }
};

// In (0, 1), in steps of 2^-31 near 0 and never 1.
FB_DEVICE float uniform_of(uint32_t bits) {
    return fminf(fmaf(float(int32_t(bits >> 1)), 0x1p-31f, 0x1p-32f), 0x1.fffffep-1f);
}

// -log(1 - v) of v in (0, 1), relatively exact near 0: exponentially distributed. The logarithm is
// Cephes's logf, in operations that every device rounds alike.
FB_DEVICE float exponential_of(float v) {
    const float rest = 1 - v;
    // rest = m * 2^e with m from sqrt(1/2) on.
    const int32_t e = (__float_as_int(rest) - 0x3f3504f3) >> 23;
    const float m = __int_as_float(__float_as_int(rest) - e * (1 << 23));
    const float f = e == 0 ? -v : m - 1;
    const float square = __fmul_rn(f, f);
    float p = 7.0376836292e-2f;
    p = fmaf(p, f, -1.1514610310e-1f);
    p = fmaf(p, f, 1.1676998740e-1f);
    p = fmaf(p, f, -1.2420140846e-1f);
    p = fmaf(p, f, 1.4249322787e-1f);
    p = fmaf(p, f, -1.6668057665e-1f);
    p = fmaf(p, f, 2.0000714765e-1f);
    p = fmaf(p, f, -2.4999993993e-1f);
    p = fmaf(p, f, 3.3333331174e-1f);
    const float tail = fmaf(__fmul_rn(p, f), square, __fmul_rn(-0.5f, square));
    return -fmaf(float(e), 0x1.62e43p-1f, __fadd_rn(f, tail));
}
