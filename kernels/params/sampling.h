// Choosing tokens: rows of logits or probabilities, each by itself.
#pragma once
#include "types.h"

// Bits of a row's status; 0: all is well.
#define FB_SAMPLE_NAN 1     // NaN, or a negative probability: as likely as -inf, or 0
#define FB_SAMPLE_NO_MASS 2 // nothing is likely: the token is 0, probabilities are 0
#define FB_SAMPLE_PARAMETER 4 // a number of this row that is not allowed: as if it were not given

// What becomes of the tokens that temperature and filters keep.
#define FB_SAMPLE_PROBABILITIES 1 // out: their probabilities, 0 for others
#define FB_SAMPLE_MASKED 2        // out: x, with -inf (0 in probabilities) for others

// Of each row: weights 2^((x - max) * log2(e) / temperature), or x / max; the tokens that min_p,
// top_k and top_p keep; then a token among them, by its weight, or the row of out.
struct fb_sample_params {
    uint64_t x;
    uint64_t tokens;       // int32 [row_count]; 0: none wanted
    uint64_t out;          // 0: none wanted
    uint64_t status;       // int32 [row_count]; 0: none wanted
    uint64_t temperatures; // float [row_count]; 0: temperature for all, and so on
    uint64_t top_ks;       // int32
    uint64_t top_ps;       // float
    uint64_t min_ps;       // float
    uint64_t seeds;        // int64
    uint64_t positions;    // int32
    int64_t seed;
    int64_t position;
    int64_t x_stride; // from one row to the next
    int64_t out_stride;
    float temperature; // 0: the likeliest token, the first of several
    int32_t top_k;     // 0: all
    float top_p;       // 1: all
    float min_p;       // 0: all
    int32_t row_count;
    int32_t vocabulary;
    int32_t dtype;
    int32_t out_dtype;
    int32_t out_kind;
    int32_t is_probabilities; // x holds these, not logits
    int32_t is_joint;         // top_p counts what the other filters drop
    int32_t is_position_row;  // a row's position is its number, without positions
};

// The k largest of each row, the largest first, of equal ones the first.
struct fb_top_k_params {
    uint64_t x;
    uint64_t values;  // [row_count, k]
    uint64_t indices; // int32 [row_count, k]
    uint64_t tokens;  // int32 [row_count]: whose values are wanted; 0: none
    uint64_t chosen;  // float [row_count]: theirs
    uint64_t status;  // int32 [row_count]; 0: none wanted
    int64_t x_stride; // from one row to the next
    int64_t values_stride;
    int64_t indices_stride;
    float temperature;
    int32_t row_count;
    int32_t row_length;
    int32_t k; // 0: none, of log-probabilities
    int32_t dtype;
    int32_t is_log_probabilities; // values are f32: log(softmax(x / temperature)); else x
};

// out = x + bias, less what penalties take, -inf where `allowed` has no bit. Rows of counts and
// prompts are those of slots, which without `slots` are the rows of x.
struct fb_adjust_params {
    uint64_t x;
    uint64_t out;     // of x's dtype; may be x
    uint64_t bias;    // float [row_count, vocabulary]; 0: none, and so on
    uint64_t allowed; // int32 [row_count, words]: a bit for each token, from the lowest on
    uint64_t prompts; // int32 [slot_count, words]: bits of the tokens of prompts
    uint64_t counts;  // int32 [slot_count, vocabulary]: how often tokens were generated
    uint64_t slots;   // int32 [row_count]
    uint64_t repetitions; // float [row_count]; 0: repetition for all, and so on
    uint64_t presences;
    uint64_t frequencies;
    int64_t x_stride; // from one row to the next
    int64_t out_stride;
    int64_t bias_stride; // 0: all rows have one
    int64_t allowed_stride;
    int64_t prompts_stride;
    int64_t counts_stride;
    float repetition; // 1: none
    float presence;   // 0: none
    float frequency;  // 0: none
    int32_t row_count;
    int32_t slot_count;
    int32_t vocabulary;
    int32_t dtype;
    int32_t reserved;
};

// counts[slots[row], tokens[row]] += 1.
struct fb_count_tokens_params {
    uint64_t counts; // int32 [slot_count, vocabulary]
    uint64_t tokens; // int32 [row_count]; what is no token is not counted
    uint64_t slots;  // int32 [row_count]; 0: a row's slot is its number
    int64_t counts_stride;
    int32_t row_count;
    int32_t slot_count;
    int32_t vocabulary;
    int32_t reserved;
};

// out[row, rank * column_count + indices[row, i]] = values[row, i] for the candidates of each rank;
// -inf where no rank has one.
struct fb_place_params {
    uint64_t values;  // of rank 0: [row_count, k], of out's dtype
    uint64_t indices; // of rank 0: int32 [row_count, k]
    uint64_t out;     // [row_count, vocabulary]
    int64_t rank_bytes; // from what one rank has to what the next has
    int64_t out_stride; // from one row to the next
    int32_t row_count;
    int32_t k;
    int32_t rank_count;
    int32_t column_count; // of a rank
    int32_t vocabulary;
    int32_t dtype;
};

// Drafts of each row are a tree: node 0 is the last token of the sequence, node i + 1 is draft i,
// whose parent is a node before it. The accepted nodes are a path from node 0, which ends with one
// token more.
struct fb_drafts_params {
    uint64_t tokens;  // int32 [row_count, draft_count]
    uint64_t parents; // int32 [row_count, draft_count]; 0: each draft follows the one before it
    uint64_t counts;  // int32 [row_count]: drafts that there are; 0: draft_count
    uint64_t targets; // probabilities [row_count, draft_count + 1, vocabulary] after each node, or,
                      // matched, int32 [row_count, draft_count + 1]: the token after each node
    uint64_t drafts;  // probabilities [row_count, draft_count, vocabulary], by parent; not matched
    uint64_t out;     // int32 [row_count, draft_count + 1]: accepted tokens and one more, then -1
    uint64_t path;    // int32 [row_count, draft_count]: accepted drafts, then -1
    uint64_t accepted; // int32 [row_count]
    uint64_t status;   // int32 [row_count]; 0: none wanted
    uint64_t seeds;     // int64 [row_count]; 0: seed for all
    uint64_t positions; // int32 [row_count], of the token after node 0; 0: position for all
    int64_t seed;
    int64_t position;
    int64_t target_stride; // from one row to the next
    int64_t target_node_stride;
    int64_t draft_stride;
    int64_t draft_node_stride;
    int32_t row_count;
    int32_t draft_count;
    int32_t vocabulary;
    int32_t target_dtype;
    int32_t draft_dtype;
    int32_t is_position_row; // a row's position is its number, without positions
};
