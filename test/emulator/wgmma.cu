// Products of a warpgroup. Constants: FB_KIND (bf16, f16, e4m3, e5m2), FB_FP8, FB_A_ALONG_M,
// FB_B_ALONG_N and FB_WIDTHS, such as X(8) X(256): a pair of kernels for each width. numbers:
// bytes of a, bytes of b, then span, leading and stride of each operand. Every kernel adds two
// products; the second one's operands lie behind the first one's: a0 a1 b0 b1.
#include "conformance.h"

#include "ptx/fence.h"
#include "ptx/memory.h"
#include "ptx/wgmma.h"

#define FB_CALL(kind) FB_CALL_(kind)
#define FB_CALL_(kind) wgmma_##kind
#if FB_FP8
#define X(N) FB_WGMMA_FP8(FB_KIND, N)
#define FB_FROM_SHARED FB_CALL(FB_KIND)
#define FB_FROM_REGISTERS FB_CALL(FB_KIND)
#else
#define X(N) FB_WGMMA(FB_KIND, N)
#define FB_FROM_SHARED FB_CALL(FB_KIND)<FB_A_ALONG_M, FB_B_ALONG_N>
#define FB_FROM_REGISTERS FB_CALL(FB_KIND)<FB_B_ALONG_N>
#endif
FB_WIDTHS
#undef X

struct Operands {
    uint32_t memory, a_bytes, b_bytes;
    const int* n;
    FB_DEVICE uint64_t a(uint32_t i) const {
        return wgmma_operand(memory + i * a_bytes, uint32_t(n[2]), uint32_t(n[3]), uint32_t(n[4]));
    }
    FB_DEVICE uint64_t b(uint32_t i) const {
        return wgmma_operand(memory + 2 * a_bytes + i * b_bytes, uint32_t(n[5]), uint32_t(n[6]),
                             uint32_t(n[7]));
    }
};

FB_DEVICE Operands load(const probe& p, unsigned char* memory) {
    const uint32_t bytes = 2 * uint32_t(p.numbers[0] + p.numbers[1]);
    for (uint32_t i = threadIdx.x; i < bytes / 4; i += 128)
        reinterpret_cast<uint32_t*>(memory)[i] = words_in(p)[i];
    fence_proxy_async_shared();
    __syncthreads();
    return {shared_address(memory), uint32_t(p.numbers[0]), uint32_t(p.numbers[1]), p.numbers};
}

template <int count>
FB_DEVICE void write(const probe& p, const float (&d)[count]) {
    FB_UNROLL
    for (int i = 0; i < count; ++i)
        words_out(p)[int(threadIdx.x) * count + i] = __float_as_uint(d[i]);
}

// What d held before must not count.
template <int N>
FB_DEVICE void from_shared(const probe& p, unsigned char* memory) {
    const Operands operands = load(p, memory);
    float d[N / 2];
    FB_UNROLL
    for (int i = 0; i < N / 2; ++i) d[i] = 1e30f;
    wgmma_fence();
    FB_FROM_SHARED(d, operands.a(0), operands.b(0), false);
    FB_FROM_SHARED(d, operands.a(1), operands.b(1), true);
    wgmma_commit();
    wgmma_wait<0>();
    write(p, d);
}

// a comes from registers: eight words of each thread, behind the operands. d starts as 1.
template <int N>
FB_DEVICE void from_registers(const probe& p, unsigned char* memory) {
    const Operands operands = load(p, memory);
    const uint32_t* in = words_in(p) + (operands.a_bytes + operands.b_bytes) / 2 + threadIdx.x * 8;
    const uint32_t a0[4] = {in[0], in[1], in[2], in[3]}, a1[4] = {in[4], in[5], in[6], in[7]};
    float d[N / 2];
    FB_UNROLL
    for (int i = 0; i < N / 2; ++i) d[i] = 1;
    wgmma_fence();
    FB_FROM_REGISTERS(d, a0, operands.b(0), true);
    FB_FROM_REGISTERS(d, a1, operands.b(1), true);
    wgmma_commit();
    wgmma_wait<0>();
    write(p, d);
}

#define X(N)                                  \
    FB_KERNEL(shared_##N, probe, 128, 1) {    \
        FB_DYNAMIC_SHARED(memory);            \
        from_shared<N>(p, memory);            \
    }                                         \
    FB_KERNEL(registers_##N, probe, 128, 1) { \
        FB_DYNAMIC_SHARED(memory);            \
        from_registers<N>(p, memory);         \
    }
FB_WIDTHS
