// Generated from kernels/params by `bun run abi`. Do not edit: change the header.

/** Ints of a `struct fb_attention_record`. */
export const attentionRecordInts = 16;

/** Where its fields lie among them. */
export const AttentionRecordField = {
  kvHead: 0,
  queryHeadStart: 1,
  queryHeadCount: 2,
  rowStart: 3,
  rowCount: 4,
  slot: 5,
  kvStart: 6,
  kvEnd: 7,
  fullStart: 8,
  fullEnd: 9,
  positionStart: 10,
  columnOffset: 11,
  partialRow: 12,
  request: 13,
  level: 14,
  firstMerge: 15,
} as const;

/** Ints of a `struct fb_merge_record`. */
export const mergeRecordInts = 8;

/** Where its fields lie among them. */
export const MergeRecordField = {
  queryHeadStart: 0,
  queryHeadCount: 1,
  rowStart: 2,
  rowCount: 3,
  partStart: 4,
  partCount: 5,
} as const;
