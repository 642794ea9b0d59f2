// Tensor cores of one warp. Layouts are those of the PTX ISA's tables for each shape.
#include "matrix.h"

namespace emu {

float fp8_to_float(uint8_t x, Number kind) {
    if (kind == Number::e5m2) return f16_to_float(uint16_t(x << 8));
    const uint32_t exponent = x >> 3 & 15, mantissa = x & 7, sign = uint32_t(x & 0x80) << 24;
    if ((x & 0x7f) == 0x7f) return __uint_as_float(0x7fffffff);
    const float magnitude = exponent ? __uint_as_float((exponent + 120) << 23 | mantissa << 20)
                                     : float(mantissa) * 0x1p-9f;
    return __uint_as_float(__float_as_uint(magnitude) | sign);
}

int unpack(uint32_t word, Number kind, float* out) {
    if (kind == Number::f16 || kind == Number::bf16) {
        for (int i = 0; i < 2; ++i) {
            const auto half = uint16_t(word >> 16 * i);
            out[i] = kind == Number::f16 ? f16_to_float(half) : bf16_to_float(half);
        }
        return 2;
    }
    for (int i = 0; i < 4; ++i) out[i] = fp8_to_float(uint8_t(word >> 8 * i), kind);
    return 4;
}

namespace {
struct MmaLane {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
};
template <Number kind>
void run_mma(void** arguments, uint32_t mask, Warp*) {
    constexpr int each = kind == Number::f16 || kind == Number::bf16 ? 2 : 4, depth = each * 8;
    if (mask != ~0u) fail("mma.sync needs the whole warp");
    alignas(32) float a[16][depth], b[depth][8], c[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto& x = *static_cast<MmaLane*>(arguments[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) {
            unpack(x.a[i], kind, &a[g + (i & 1) * 8][t * each + (i >> 1) * 4 * each]);
            c[g + (i >> 1) * 8][t * 2 + (i & 1)] = x.d[i];
        }
        for (int i = 0; i < 2; ++i) {
            float column[each];
            unpack(x.b[i], kind, column);
            for (int k = 0; k < each; ++k) b[t * each + i * 4 * each + k][g] = column[k];
        }
    }
    for (int row = 0; row < 16; ++row)
        for (int k = 0; k < depth; ++k)
            for (int n = 0; n < 8; ++n) c[row][n] += a[row][k] * b[k][n];
    for (int lane = 0; lane < 32; ++lane) {
        const auto& x = *static_cast<MmaLane*>(arguments[lane]);
        for (int i = 0; i < 4; ++i) x.d[i] = c[lane / 4 + (i >> 1) * 8][lane % 4 * 2 + (i & 1)];
    }
}

struct MatrixLane {
    uint32_t* r;
    uint16_t* row;
};
// Element (row, column) of matrix i, which a lane holds in half h of register i.
template <int count, bool transposed, bool stores>
void run_matrix(void** arguments, uint32_t mask, Warp*) {
    if (mask != ~0u)
        fail(stores ? "stmatrix needs the whole warp" : "ldmatrix needs the whole warp");
    for (int i = 0; i < count; ++i)
        for (int lane = 0; lane < 32; ++lane) {
            uint32_t& r = static_cast<MatrixLane*>(arguments[lane])->r[i];
            if (!stores) r = 0;
            for (int h = 0; h < 2; ++h) {
                const int pair = lane % 4 * 2 + h, other = lane / 4;
                const int row = transposed ? pair : other, column = transposed ? other : pair;
                uint16_t& element = static_cast<MatrixLane*>(arguments[i * 8 + row])->row[column];
                if (stores)
                    element = uint16_t(r >> 16 * h);
                else
                    r |= uint32_t(element) << 16 * h;
            }
        }
}
template <bool stores>
void move_matrices(uint32_t* r, uint32_t address, int count, bool transposed) {
    MatrixLane x{r, nullptr};
    if (int(me()->lane) < count * 8) {
        x.row = static_cast<uint16_t*>(shared_pointer(address, 16, 16));
        if (stores)
            race::writes(x.row, 16);
        else
            race::reads(x.row, 16);
    }
    static constexpr Collective run[2][3] = {
        {run_matrix<1, false, stores>, run_matrix<2, false, stores>, run_matrix<4, false, stores>},
        {run_matrix<1, true, stores>, run_matrix<2, true, stores>, run_matrix<4, true, stores>}};
    collective(~0u, stores ? "stmatrix" : "ldmatrix", run[transposed][count / 2], &x);
}
} // namespace

void mma(float* d, const uint32_t* a, uint32_t b0, uint32_t b1, Number kind) {
    MmaLane x{d, a, {b0, b1}};
    const Collective run = kind == Number::bf16   ? run_mma<Number::bf16>
                           : kind == Number::f16  ? run_mma<Number::f16>
                           : kind == Number::e4m3 ? run_mma<Number::e4m3>
                                                  : run_mma<Number::e5m2>;
    collective(~0u, "mma.sync", run, &x);
}

void ldmatrix(uint32_t* r, uint32_t address, int count, bool transposed) {
    move_matrices<false>(r, address, count, transposed);
}

void stmatrix(const uint32_t* r, uint32_t address, int count, bool transposed) {
    move_matrices<true>(const_cast<uint32_t*>(r), address, count, transposed);
}

} // namespace emu
