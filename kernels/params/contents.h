// What index tensors of an attention hold, looked at before kernels follow them.
#pragma once
#include "attention.h"

// Every entry of page_table and mask_indptr that the records would follow. With copies, entries
// that lead out are 0 in them, and attention reads these.
struct fb_contents_params {
    uint64_t report;     // uint64 [2], of the pages and of the masks: the first entry that leads
                         // out << 32 | what it holds; all ones: none. A launch adds to it
    uint64_t pages_copy; // int32 [pages_entries]; 0: none wanted
    uint64_t masks_copy; // int32 [masks_entries]; 0: none wanted
    int32_t pages_entries; // that this launch copies
    int32_t masks_entries;
    struct fb_attention_params attention;
};
