// What attention kernels take that load and store by bulk copies (TMA), as src/attention/params.ts
// packs it. Each class of kernels has maps of its own; those that its bindMaps leaves alone are 0.
#pragma once
#include "../../params.h"

struct fb_attention_map_params {
    fb_tensor_map q;   // of the run's queries
    fb_tensor_map k;   // of the layer's keys
    fb_tensor_map v;   // of the layer's values
    fb_tensor_map out; // of the run's outputs
    fb_attention_params attention;
};
