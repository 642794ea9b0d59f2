// Generated from kernels/params by `bun run abi`. Do not edit: change the header.

/** Ints of a `struct fb_attention_record`, and where its fields lie. */
export const attentionRecordInts = 16;
export const attentionRecordKvHead = 0;
export const attentionRecordQueryHeadStart = 1;
export const attentionRecordQueryHeadCount = 2;
export const attentionRecordRowStart = 3;
export const attentionRecordRowCount = 4;
export const attentionRecordSlot = 5;
export const attentionRecordKvStart = 6;
export const attentionRecordKvEnd = 7;
export const attentionRecordFullStart = 8;
export const attentionRecordFullEnd = 9;
export const attentionRecordPositionStart = 10;
export const attentionRecordColumnOffset = 11;
export const attentionRecordPartialRow = 12;
export const attentionRecordRequest = 13;
export const attentionRecordLevel = 14;

/** Ints of a `struct fb_merge_record`, and where its fields lie. */
export const mergeRecordInts = 8;
export const mergeRecordQueryHeadStart = 0;
export const mergeRecordQueryHeadCount = 1;
export const mergeRecordRowStart = 2;
export const mergeRecordRowCount = 3;
export const mergeRecordPartStart = 4;
export const mergeRecordPartCount = 5;
