/** How the kernel is cut for some dims. */
export interface Cut {
  /** Elements of a key head and of a value head. */
  readonly keyDim: number;
  readonly valueDim: number;
  /** Keys at a time. */
  readonly kvTile: number;
  /** Warpgroups that compute 64 rows each. */
  readonly groups: number;
  /** Blocks that share a record's rows out, and load its keys for each other. */
  readonly cluster: number;
  /** Or two blocks with the same rows, each of which has half of the keys. */
  readonly splitsKeys: boolean;
  readonly stages: number;
  /** Blocks on a processor. */
  readonly blocks: number;
  /** It takes any number of rows that see up to so many keys on average; 0: as many as it has. */
  readonly keysMost: number;
  /** The same, where no request of the step has few rows. */
  readonly promptsOnly: boolean;
  /** Of tiles that land raw, at most as many. */
  readonly rawStages: number;
  readonly queryBuffers: number;
  /** Queries move to registers. */
  readonly keepsQueries: boolean;
  /** Warpgroups that share the columns of values, beside those that score; 0: these do it all. */
  readonly valueGroups: number;
}

/**
 * What fits registers and shared memory and measured best (docs/kernels/hopper.md): of some dims
 * the first that does, since notes of keys and rows take memory.
 */
export const cuts: readonly Cut[] = [
  cutOf(64, 64, 128, 3, 2, true),
  cutOf(96, 96, 128, 3, 1, true),
  cutOf(96, 96, 112, 3, 1, true),
  cutOf(128, 128, 128, 3, 1, true),
  cutOf(128, 128, 112, 3, 1, true),
  cutOf(192, 128, 112, 2, 1, false),
  cutOf(192, 192, 96, 2, 1, false),
  cutOf(256, 256, 64, 2, 1, false),
  // 64 rows of sums are all that a block's registers hold: four blocks share the keys.
  { ...cutOf(512, 512, 32, 2, 1, false), groups: 1, valueGroups: 2, cluster: 4 },
];

/**
 * What is taken before them where scores meet nothing but a range of tokens: with three warpgroups
 * a thread has 160 registers.
 */
export const plainCuts: readonly Cut[] = [
  { ...cutOf(64, 64, 96, 3, 2, true), groups: 3, cluster: 1 },
];

/**
 * The same for requests of up to 64 and up to 128 rows: they wait for their keys, and blocks on
 * their own do best. Wider heads were not measured so. Of heads of 64 two blocks of the latter fit
 * a processor: what begins and ends a record of one runs beneath the other, so that they do best
 * for short prompts, too. Of heads of 128 a cut of its own does, with half of the keys at a time.
 */
export function fewRowsCuts(cut: Cut): readonly Cut[] {
  if (cut.keyDim > 128) return [];
  const alone = { ...cut, cluster: 1 };
  const least = { ...alone, groups: 1, kvTile: 64, stages: 4 };
  if (cut.keyDim === 128) {
    const short = { ...alone, kvTile: 64, stages: 5, keysMost: 2048, promptsOnly: true };
    return [least, alone, short];
  }
  if (cut.groups === 2) return [least, alone];
  const paired = { ...alone, groups: 2, kvTile: 48, stages: 4, blocks: 2, keepsQueries: false };
  return [least, { ...paired, keysMost: 512 }];
}

/**
 * Of blocks on their own with 64 rows: pairs of blocks that share a record's keys, where there are
 * so few records that each would be cut and merged. Other dims were not measured so.
 */
export function splitCut(cut: Cut): Cut | undefined {
  if (cut.keyDim !== 128 || cut.groups !== 1 || cut.cluster !== 1) return undefined;
  return { ...cut, cluster: 2, splitsKeys: true };
}

/**
 * For decodes with a shared prefix in one launch: two blocks on a processor, each with half of what
 * is in flight. Other dims were not measured so.
 */
export function pairedCut(cut: Cut): Cut | undefined {
  if (cut.keyDim !== 128) return undefined;
  return { ...cut, groups: 1, cluster: 1, kvTile: 64, stages: 2, blocks: 2 };
}

/** The same where keys, or keys and values, are changed on their way: raw tiles take memory. */
export const changingCuts: readonly Cut[] = [
  cutOf(64, 64, 128, 2, 1, false),
  cutOf(64, 64, 96, 2, 1, false),
  cutOf(96, 96, 112, 2, 1, false),
  cutOf(96, 96, 96, 2, 1, false),
  { ...cutOf(128, 128, 96, 3, 1, false), rawStages: 2 },
  cutOf(128, 128, 112, 2, 1, false),
  cutOf(128, 128, 96, 2, 1, false),
  cutOf(128, 128, 80, 2, 1, false),
  cutOf(192, 128, 80, 2, 1, false),
  cutOf(192, 128, 48, 2, 1, false),
  cutOf(192, 192, 64, 2, 1, false),
  cutOf(192, 192, 48, 2, 1, false),
  cutOf(256, 256, 48, 2, 1, false),
  cutOf(256, 256, 32, 2, 1, false),
];

/** The same where keys turn in their place, by a fourth warpgroup. */
export const turningCuts: readonly Cut[] = [
  cutOf(64, 64, 128, 3, 2, true),
  cutOf(64, 64, 96, 3, 2, true),
  cutOf(96, 96, 112, 3, 1, true),
  cutOf(96, 96, 96, 3, 1, true),
  cutOf(128, 128, 96, 3, 1, true),
  cutOf(128, 128, 96, 3, 1, true),
  cutOf(192, 128, 96, 2, 1, false),
  cutOf(192, 192, 96, 2, 1, false),
  cutOf(192, 192, 80, 2, 1, false),
  cutOf(192, 192, 64, 2, 1, false),
  cutOf(256, 256, 48, 3, 1, false),
  cutOf(256, 256, 48, 2, 1, false),
];

/** The same of fp8 products: rows of 128 bytes are one panel. */
export const fp8Cuts: readonly Cut[] = [
  cutOf(128, 128, 128, 4, 1, true),
  cutOf(128, 128, 96, 4, 1, true),
];

function cutOf(
  keyDim: number,
  valueDim: number,
  kvTile: number,
  stages: number,
  queryBuffers: number,
  keepsQueries: boolean,
): Cut {
  const rawStages = stages;
  const tile = { keyDim, valueDim, kvTile, stages, rawStages, queryBuffers, keepsQueries };
  return {
    ...tile,
    groups: 2,
    cluster: 2,
    splitsKeys: false,
    valueGroups: 0,
    blocks: 1,
    keysMost: 0,
    promptsOnly: false,
  };
}

/**
 * Tiles that divide the chunks of batch-invariant plans, wherever a window begins. All rows of such
 * plans are in this class: blocks of their own are filled better by few.
 */
export function invariantCut(cut: Cut): Cut {
  return { ...cut, cluster: 1, kvTile: 2 ** Math.floor(Math.log2(cut.kvTile)) };
}

/** Keys at a time where hooks take registers and warps that change tiles do, too. */
export const hookedKeysMost = 96;

/** Elements of 16 bits in a row of a panel. */
export const panelColumns = 64;

/** Packed rows of a record. */
export function rowsOf({ groups, cluster, splitsKeys }: Cut): number {
  return 64 * groups * (splitsKeys ? 1 : cluster);
}

/** Rows of a box: a whole number of them makes a page, and a tile. */
export function boxRows(pageSize: number, { keyDim, kvTile, cluster }: Cut): number {
  const both = pageSize | kvTile;
  // Of fewer than 8 the swizzle's pattern would not start over; a lane loads one box at most.
  const least = Math.ceil(keyDim / panelColumns) * (kvTile / 8) <= 32 * cluster ? 8 : 16;
  return Math.max(least, both & -both);
}

/** Bytes of so many whole KiB. */
export function kibibytes(bytes: number): number {
  return Math.ceil(bytes / 1024) * 1024;
}
