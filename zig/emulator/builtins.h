// CUDA's built-in variables and functions of threads, warps and atomics.
#pragma once

#define threadIdx (::emu::self->index)
#define blockIdx (::emu::self->block->index)
#define blockDim (::emu::self->block->threads)
#define gridDim (::emu::self->block->grid)
#define warpSize 32

inline void __syncthreads() { emu::barrier(0, 0, true); }
inline int __syncthreads_count(int yes) { return emu::barrier_count(yes != 0, 0); }
inline int __syncthreads_or(int yes) { return emu::barrier_count(yes != 0, 0) != 0; }
inline int __syncthreads_and(int yes) { return emu::barrier_count(yes == 0, 0) == 0; }
inline void __syncwarp(uint32_t mask = ~0u) { emu::syncwarp(mask); }
inline void __threadfence() { emu::thread_fence(); }
inline void __threadfence_block() { emu::thread_fence(); }
inline void __nanosleep(unsigned) { emu::yield(); }
inline long long clock64() { return (long long)(emu::global_timer()); }

namespace emu {
template <class T>
uint64_t to_bits(T v) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    if constexpr (sizeof(T) == 4)
        return __builtin_bit_cast(uint32_t, v);
    else
        return __builtin_bit_cast(uint64_t, v);
}
template <class T>
T from_bits(uint64_t bits) {
    if constexpr (sizeof(T) == 4)
        return __builtin_bit_cast(T, uint32_t(bits));
    else
        return __builtin_bit_cast(T, bits);
}
} // namespace emu

#define EMU_SHUFFLE(name, mode)                                                    \
    template <class T>                                                             \
    inline T name(uint32_t mask, T v, int lane, int width = 32) {                  \
        return emu::from_bits<T>(                                                  \
            emu::shuffle(mask, emu::to_bits(v), lane, emu::Shuffle::mode, width)); \
    }
EMU_SHUFFLE(__shfl_sync, index)
EMU_SHUFFLE(__shfl_up_sync, up)
EMU_SHUFFLE(__shfl_down_sync, down)
EMU_SHUFFLE(__shfl_xor_sync, flip)
#undef EMU_SHUFFLE
inline uint32_t __ballot_sync(uint32_t mask, int yes) { return emu::ballot(mask, yes != 0); }
inline int __any_sync(uint32_t mask, int yes) { return emu::ballot(mask, yes != 0) != 0; }
inline int __all_sync(uint32_t mask, int yes) { return emu::ballot(mask, yes == 0) == 0; }
template <class T>
inline uint32_t __match_any_sync(uint32_t mask, T v) {
    return emu::match_any(mask, emu::to_bits(v));
}
#define EMU_REDUCE(name, type, step)                                            \
    inline type __reduce_##name##_sync(uint32_t mask, type v) {                 \
        return type(emu::reduce(mask, uint32_t(v), [](uint32_t x, uint32_t y) { \
            const type a = type(x), b = type(y);                                \
            return uint32_t(step);                                              \
        }));                                                                    \
    }
EMU_REDUCE(add, int, a + b)
EMU_REDUCE(add, unsigned, a + b)
EMU_REDUCE(max, int, a > b ? a : b)
EMU_REDUCE(max, unsigned, a > b ? a : b)
EMU_REDUCE(min, int, a < b ? a : b)
EMU_REDUCE(min, unsigned, a < b ? a : b)
EMU_REDUCE(or, unsigned, a | b)
EMU_REDUCE(and, unsigned, a& b)
#undef EMU_REDUCE

template <class T>
inline T __ldg(const T* p) {
    return *p;
}

template <class T>
inline T atomicCAS(T* p, T expected, T v) {
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
#define EMU_ATOMIC(name, step)                                                                     \
    template <class T>                                                                             \
    inline T name(T* p, T b) {                                                                     \
        T a, result;                                                                               \
        __atomic_load(p, &a, __ATOMIC_RELAXED);                                                    \
        do {                                                                                       \
            result = step;                                                                         \
        } while (                                                                                  \
            !__atomic_compare_exchange(p, &a, &result, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)); \
        return a;                                                                                  \
    }
EMU_ATOMIC(atomicAdd, T(a + b))
EMU_ATOMIC(atomicSub, T(a - b))
EMU_ATOMIC(atomicMax, a > b ? a : b)
EMU_ATOMIC(atomicMin, a < b ? a : b)
EMU_ATOMIC(atomicAnd, a& b)
EMU_ATOMIC(atomicOr, a | b)
EMU_ATOMIC(atomicXor, a ^ b)
EMU_ATOMIC(atomicExch, b)
#undef EMU_ATOMIC
