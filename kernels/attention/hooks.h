// What the hooks of an attention variant read, and what they are written in. `struct Variant`, of
// variant.h, has the hooks; those that it leaves out are the ones of NoVariant.
#pragma once
#include "../common/element.h"
#include "../ptx/math.h"
#include "../ptx/memory.h"

#include "../params/attention.h"

#ifndef FB_KEY_TAIL
#define FB_KEY_TAIL 0
#endif

constexpr float log2_e = 1.44269504f;
constexpr float ln_2 = 0.69314718f;

// A packed query row. Positions count in the sequence, lengths in tokens of the request.
struct RowInputs {
    int32_t query;       // position
    int32_t query_token; // of the batch
    int32_t query_index; // of the request's new tokens
    int32_t request;
    int32_t head;
    int32_t kv_head;
    int32_t query_length;
    int32_t kv_length;
};

struct KeyInputs {
    int32_t key;  // position
    int32_t slot; // page * page_size + offset, or the token of a contiguous tensor
    int32_t kv_head;
};

// A pair of a query and a key. x is product * factor; the factor is the key's.
struct Pair {
    float product;
    float factor;
    bool visible; // and stored to tensors, if the hook does so
};

struct NoMatrix {
    int32_t rows = 0;
    int32_t columns = 0;
    FB_DEVICE float at(int32_t, int32_t) const { return 0; }
};

struct NoVariant {
    static constexpr bool has_query = false;
    static constexpr bool has_key = false;
    static constexpr bool has_value = false;
    static constexpr bool has_logits = false;
    static constexpr bool has_mask = false;
    static constexpr bool has_output = false;
    // Rows of queries (outputs) are multiplied by a matrix, after the hook before_query and before
    // query, if there are such.
    static constexpr bool projects_query = false;
    static constexpr bool projects_output = false;
    static constexpr bool has_before_query = false;
    static constexpr bool has_before_output = false;
    static constexpr bool has_bounds = false;
    static constexpr bool trims = false; // records may have keys outside of all bounds
    static constexpr bool softmax = true;
    static constexpr bool stores = false;     // logits() writes to tensors
    static constexpr bool reads_keys = false; // logits() or mask() read a Key
    static constexpr bool reads_slots = false;

    // What query(), logits() and mask() read of a row: 32-bit words, made once for all keys.
    static constexpr int row_words = 0;
    struct Row {};
    static FB_DEVICE Row row(const fb_attention_params&, const RowInputs&) { return {}; }

    // What logits() and mask() read of a key, made once for a thread's rows.
    struct Key {};
    static FB_DEVICE Key key_words(const fb_attention_params&, const KeyInputs&) { return {}; }

    // Key positions outside of [low, high] are hidden.
    static FB_DEVICE int32_t low(const fb_attention_params&, const RowInputs&) {
        return -0x7fffffff - 1;
    }
    static FB_DEVICE int32_t high(const fb_attention_params&, const RowInputs&) {
        return 0x7fffffff;
    }

    // Change the eight elements of a vector, from v.first on, in v.x.
    template <class R, class V>
    static FB_DEVICE void query(const fb_attention_params&, const R&, V&) {}
    template <class R, class V>
    static FB_DEVICE void before_query(const fb_attention_params&, const R&, V&) {}
    template <class V>
    static FB_DEVICE void key(const fb_attention_params&, const KeyInputs&, V&) {}
    template <class V>
    static FB_DEVICE void value(const fb_attention_params&, const KeyInputs&, V&) {}

    // What x of logits() is multiplied by; pair.factor has it.
    static FB_DEVICE float logits_factor(const fb_attention_params&) { return 1; }

    // In base 2 or, without softmax, the weight.
    template <class R, class K>
    static FB_DEVICE float logits(const fb_attention_params&, const R&, const K&, const Pair&) {
        return 0;
    }
    template <class R, class K>
    static FB_DEVICE bool mask(const fb_attention_params&, const R&, const K&) {
        return true;
    }

    // An element of the output; lse is the row's, base e.
    static FB_DEVICE float output(const fb_attention_params&, const RowInputs&, float, int,
                                  float x) {
        return x;
    }
    static FB_DEVICE float before_output(const fb_attention_params&, const RowInputs&, float, int,
                                         float x) {
        return x;
    }

    // What a head's rows of queries and of outputs are multiplied by.
    static FB_DEVICE NoMatrix query_matrix(const fb_attention_params&, int32_t) { return {}; }
    static FB_DEVICE NoMatrix output_matrix(const fb_attention_params&, int32_t) { return {}; }
};

// ---- what vector hooks work on

// Elements [first, first + 8) of a row of Dim elements of a type, of which Threads neighbouring
// lanes (a power of two, or 0: anywhere) hold eight each; past Dim there are none. Hooks are called
// by all lanes of a warp, some of which may hold the elements of no row.
template <int Dim, int Threads, int Type> struct Vector {
    static constexpr int dim = Dim;
    const void* raw; // the row's first element
    int first;
    float x[8];
#if FB_KEY_TAIL > 0
    const void* tail = nullptr; // of a key in two pieces: what raw is for its last elements
#endif

    FB_DEVICE bool filled() const { return first < Dim; }

    FB_DEVICE void load() {
        if (filled()) widen_8<Type>(piece(first) + first * bytes, x);
    }

    // Any element, unchanged.
    FB_DEVICE float at(int element) const { return widen_1<Type>(piece(element), element); }

    // Over all elements, of f(element, x); by all lanes of a warp.
    template <class F> FB_DEVICE float sum(F f) const {
        return reduce(f, 0, [](float a, float b) { return a + b; });
    }
    template <class F> FB_DEVICE float max(F f) const {
        return reduce(f, -FB_INFINITY, [](float a, float b) { return max_nan(a, b); });
    }

    // The element that one of the first N is paired with: of the other half, or, where N is
    // negative, the neighbour. Elements from N on are their own.
    template <int N> static FB_DEVICE int partner_of(int element) {
        if (N < 0) return element < -N ? element ^ 1 : element;
        return element >= N ? element : element < N / 2 ? element + N / 2 : element - N / 2;
    }

    // The partners of the own elements, unchanged.
    template <int N> FB_DEVICE void partners(float (&other)[8]) const {
        if (!filled()) return;
        if constexpr (N > 0 && N % 16 == 0) {
            if (first < N)
                return widen_8<Type>(
                    piece(partner_of<N>(first)) + partner_of<N>(first) * bytes, other);
        }
        FB_UNROLL
        for (int i = 0; i < 8; i++) {
            if (N < 0) other[i] = first + i < -N ? x[i ^ 1] : x[i];
            else other[i] = first < N ? at(partner_of<N>(first + i)) : x[i];
        }
    }

  private:
    static constexpr int bytes = Type == FB_F32 ? 4 : Type == FB_F16 || Type == FB_BF16 ? 2 : 1;

    FB_DEVICE const uint8_t* piece([[maybe_unused]] int element) const {
#if FB_KEY_TAIL > 0
        if (tail != nullptr && element >= Dim - FB_KEY_TAIL)
            return static_cast<const uint8_t*>(tail);
#endif
        return static_cast<const uint8_t*>(raw);
    }

    template <class F, class Join> FB_DEVICE float reduce(F f, float total, Join join) const {
        if constexpr (Threads == 0) {
            for (int i = 0; i < Dim; i++) total = join(total, f(i, at(i)));
        } else {
            FB_UNROLL
            for (int i = 0; i < 8; i++)
                if (filled()) total = join(total, f(first + i, x[i]));
            FB_UNROLL
            for (int distance = Threads / 2; distance > 0; distance /= 2)
                total = join(total, __shfl_xor_sync(0xffffffffu, total, distance));
        }
        return total;
    }
};

// ---- what expressions are written in

// Integers wrap around.
FB_DEVICE int32_t add_i32(int32_t a, int32_t b) { return int32_t(uint32_t(a) + uint32_t(b)); }
FB_DEVICE int32_t sub_i32(int32_t a, int32_t b) { return int32_t(uint32_t(a) - uint32_t(b)); }
FB_DEVICE int32_t mul_i32(int32_t a, int32_t b) { return int32_t(uint32_t(a) * uint32_t(b)); }
FB_DEVICE int32_t neg_i32(int32_t a) { return sub_i32(0, a); }
FB_DEVICE int32_t abs_i32(int32_t a) { return a < 0 ? neg_i32(a) : a; }
FB_DEVICE int32_t shl_i32(int32_t a, int32_t count) {
    return int32_t(uint32_t(a) << (count & 31));
}
FB_DEVICE int32_t shr_i32(int32_t a, int32_t count) { return a >> (count & 31); }

// Rounds down; 0 for a divisor of 0.
FB_DEVICE int32_t div_i32(int32_t a, int32_t b) {
    if (b == 0) return 0;
    if (b == -1) return neg_i32(a);
    const int32_t quotient = a / b;
    return (a % b != 0 && (a < 0) != (b < 0)) ? quotient - 1 : quotient;
}
FB_DEVICE int32_t mod_i32(int32_t a, int32_t b) {
    return b == 0 ? 0 : sub_i32(a, mul_i32(div_i32(a, b), b));
}

FB_DEVICE float mod_f32(float a, float b) { return a - b * floorf(div_approx(a, b)); }
FB_DEVICE float exp_f32(float x) { return exp2_approx(x * log2_e); }
FB_DEVICE float log_f32(float x) { return log2_approx(x) * ln_2; }
FB_DEVICE float sigmoid_f32(float x) { return rcp_approx(1 + exp2_approx(x * -log2_e)); }
FB_DEVICE float pow_f32(float x, float y) { return exp2_approx(log2_approx(x) * y); }

// About 2^-22 absolute, where the hardware's tanh has 2^-11.
FB_DEVICE float tanh_f32(float x) { return 1 - 2 * rcp_approx(1 + exp2_approx(x * (2 * log2_e))); }

// The unit is good between -pi and pi: what is left of whole turns, of angles up to 2^17.
FB_DEVICE float less_turns(float x) {
    const float turns = rintf(x * 0.15915494f);
    return fmaf(turns, 1.7484555e-7f, fmaf(turns, -6.28318548f, x));
}
FB_DEVICE float sin_f32(float x) { return sin_approx(less_turns(x)); }
FB_DEVICE float cos_f32(float x) { return cos_approx(less_turns(x)); }

// ---- tensors of the variant

FB_DEVICE float scalar_f32(const fb_attention_params& p, int index) {
    return __int_as_float(p.variant.scalars[index]);
}

FB_DEVICE int32_t clamp_index(int32_t index, int32_t size) { return max(0, min(index, size - 1)); }

template <int Type> FB_DEVICE auto load_element(uint64_t data, int32_t offset) {
    if constexpr (Type == FB_F32) return reinterpret_cast<const float*>(data)[offset];
    else if constexpr (Type == FB_I32) return reinterpret_cast<const int32_t*>(data)[offset];
    else if constexpr (Type == FB_U8 || Type == FB_BOOL)
        return int32_t(reinterpret_cast<const uint8_t*>(data)[offset]);
    else return widen_1<Type>(reinterpret_cast<const void*>(data), offset);
}

// The matrix of a head: a tensor [rows, columns] or, PerHead, [head, rows, columns].
template <int Type> struct Matrix {
    uint64_t data;
    int32_t rows;
    int32_t columns;
    int32_t down; // elements from a row to the next
    int32_t across;

    FB_DEVICE float at(int32_t row, int32_t column) const {
        return load_element<Type>(data, row * down + column * across);
    }
};

template <int Type, int Tensor, bool PerHead>
FB_DEVICE Matrix<Type> matrix_of(const fb_attention_params& p, int32_t head) {
    constexpr int axis = Tensor * FB_VARIANT_AXES + (PerHead ? 1 : 0);
    constexpr int bytes = Type == FB_F32 ? 4 : Type == FB_F16 || Type == FB_BF16 ? 2 : 1;
    const int64_t first = PerHead ? int64_t(head) * p.variant.strides[axis - PerHead] : 0;
    return {p.variant.data[Tensor] + uint64_t(first * bytes), p.variant.sizes[axis],
            p.variant.sizes[axis + 1], p.variant.strides[axis], p.variant.strides[axis + 1]};
}

template <int Type, class T> FB_DEVICE void store_element(uint64_t data, int32_t offset, T x) {
    if constexpr (Type == FB_F32) reinterpret_cast<float*>(data)[offset] = x;
    if constexpr (Type == FB_I32) reinterpret_cast<int32_t*>(data)[offset] = x;
    if constexpr (Type == FB_U8) reinterpret_cast<uint8_t*>(data)[offset] = uint8_t(x);
    if constexpr (Type == FB_BOOL) reinterpret_cast<uint8_t*>(data)[offset] = x != 0;
    if constexpr (Type == FB_F16) reinterpret_cast<uint16_t*>(data)[offset] = float_to_f16(x);
    if constexpr (Type == FB_BF16) reinterpret_cast<uint16_t*>(data)[offset] = float_to_bf16(x);
    if constexpr (Type == FB_F8E4M3) reinterpret_cast<uint8_t*>(data)[offset] = float_to_e4m3(x);
    if constexpr (Type == FB_F8E5M2) reinterpret_cast<uint8_t*>(data)[offset] = float_to_e5m2(x);
}
