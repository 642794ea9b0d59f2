// How attention differs from softmax(q k^T) v: not at all. The text of a variant replaces this
// file; src/variant/emit-cuda.ts writes it.
//
// A variant of CUDA hooks (defineCudaVariant) gives the functions below that it names as its hooks;
// they lie in a namespace of their own. `p` is passed on to what reads tensors and scalars: for a
// tensor `bias` of two axes bias(p, i, j), whose indices are clamped to it, and for a scalar `cap`
// cap(p). Positions count in the sequence; RowInputs, KeyInputs and Vector are in hooks.h.
//
//   // The logit (natural units) that takes the place of x = scale * q.k, or the weight.
//   FB_DEVICE float logits(const fb_attention_params& p, const RowInputs& row,
//                          const KeyInputs& key, float x);
//
//   // Whether the query sees the key.
//   FB_DEVICE bool mask(const fb_attention_params& p, const RowInputs& row, const KeyInputs& key);
//
//   // Change elements [v.first, v.first + 8) of a vector of V::dim, v.x[0] to v.x[7], in f32.
//   // v.at(i) is any element unchanged, v.sum([&](int i, float x) { return x * x; }) and
//   // v.max(...) go over all: under no condition, since whole warps work on them. Where
//   // !v.filled() there are none.
//   template <class V>
//   FB_DEVICE void query(const fb_attention_params& p, const RowInputs& row, V& v);
//   template <class V>
//   FB_DEVICE void key(const fb_attention_params& p, const KeyInputs& key, V& v);
//   template <class V>
//   FB_DEVICE void value(const fb_attention_params& p, const KeyInputs& key, V& v);
//
//   // Element `element` of an output row; lse is the row's log-sum-exp, base e.
//   FB_DEVICE float output(const fb_attention_params& p, const RowInputs& row, float lse,
//                          int element, float x);
#pragma once
#include "hooks.h"

struct Variant : NoVariant {};
