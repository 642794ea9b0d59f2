//! Activation functions of linear layers, in f32.
const params = @import("params");
const simd = @import("simd.zig");

const F = simd.F;

/// The activation of this code (kernels/params/matmul.h).
pub inline fn activate(activation: i32, x: F) F {
    return switch (activation) {
        params.FB_ACTIVATION_SILU => x * sigmoid(x),
        params.FB_ACTIVATION_GELU => gelu(x),
        // 2 sqrt(2 / pi) (x + 0.044715 x^3): tanh as a sigmoid of twice as much.
        params.FB_ACTIVATION_GELU_TANH => x * sigmoid(
            x * simd.mul_add(x * x, simd.splat(0.07135481282), simd.splat(1.595769122)),
        ),
        else => x,
    };
}

/// 1 / (1 + e ** -x), without overflow.
inline fn sigmoid(x: F) F {
    const e = simd.exp2(-@abs(x) * simd.splat(simd.log2_e));
    return @select(f32, x < simd.splat(0), e, simd.splat(1)) / (simd.splat(1) + e);
}

/// x times the normal distribution of x, by Abramowitz and Stegun's 7.1.26 (1.5e-7 of erf).
inline fn gelu(x: F) F {
    const z = @abs(x) * simd.splat(0.7071067812);
    const t = simd.splat(1) / simd.mul_add(z, simd.splat(0.3275911), simd.splat(1));
    var tail = simd.splat(1.061405429);
    inline for (.{ -1.453152027, 1.421413741, -0.284496736, 0.254829592 }) |c|
        tail = simd.mul_add(tail, t, simd.splat(c));
    tail *= t * simd.exp2(-z * z * simd.splat(simd.log2_e)) * simd.splat(0.5);
    return x * @select(f32, x < simd.splat(0), tail, simd.splat(1) - tail);
}
