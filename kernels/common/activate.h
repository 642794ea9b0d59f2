// Activation functions of linear layers, in f32.
#pragma once
#include "../ptx/math.h"
#include "../params/matmul.h"

// 1 / (1 + e^-x); 0 where e^-x is no number any more.
FB_DEVICE float sigmoid(float x) { return rcp_approx(1 + exp2_approx(x * -1.44269504f)); }

// x times the normal distribution of x, by Abramowitz and Stegun's 7.1.26 (1.5e-7 of erf).
FB_DEVICE float gelu(float x) {
    const float z = fabsf(x) * 0.7071067812f;
    const float t = rcp_approx(fmaf(z, 0.3275911f, 1));
    float tail = 1.061405429f;
    tail = fmaf(tail, t, -1.453152027f);
    tail = fmaf(tail, t, 1.421413741f);
    tail = fmaf(tail, t, -0.284496736f);
    tail = fmaf(tail, t, 0.254829592f);
    tail *= t * exp2_approx(-z * z * 1.44269504f) * 0.5f;
    return x * (x < 0 ? tail : 1 - tail);
}

FB_DEVICE float activate(int32_t activation, float x) {
    switch (activation) {
    case FB_ACTIVATION_SILU: return x * sigmoid(x);
    case FB_ACTIVATION_GELU: return gelu(x);
    // 2 sqrt(2 / pi) (x + 0.044715 x^3): tanh as a sigmoid of twice as much.
    case FB_ACTIVATION_GELU_TANH:
        return x * sigmoid(x * fmaf(x * x, 0.07135481282f, 1.595769122f));
    default: return x;
    }
}
