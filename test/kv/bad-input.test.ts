import { describe, expect, test } from "bun:test";
import { DisposedError, OptionError, OutOfPagesError } from "../../src/errors.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { PrefixIndex } from "../../src/kv/prefix-index.ts";
import { Sequence, SequencePool } from "../../src/kv/sequence.ts";
import { orderByPrefix, sharePrefixes } from "../../src/kv/share-prefixes.ts";
import { snapshot } from "./model.ts";

const groups = [{ pages: 10 }, { pages: 10, windowLeft: 4 }];

interface Fixture {
  pool: SequencePool;
  batch: Batch;
  long: Sequence;
  fork: Sequence;
  freed: Sequence;
  foreign: Sequence;
}

/**
 * A pool with a 10-token sequence, a fork of it that wrote 2 more, and sequences not to be used.
 */
function fixture(): Fixture {
  const pool = new SequencePool({ pageSize: 4, groups, maxSequences: 4 });
  const [long, freed] = [pool.create(), pool.create()];
  pool.reserve([long], [10]);
  const fork = long.fork();
  const batch = pool.reserve([fork], [2]) as Batch;
  freed.free();
  const foreign = new SequencePool({ pageSize: 4, groups, maxSequences: 4 }).create();
  return { pool, batch, long, fork, freed, foreign };
}

/** Expects the call to throw that error and to leave pool and batch as they were. */
function refuses(
  call: (fixture: Fixture) => unknown,
  error: new (...args: never[]) => Error,
  message: RegExp,
): void {
  const made = fixture();
  const before = snapshot(made.pool, made.batch);
  let thrown: unknown;
  try {
    call(made);
  } catch (caught) {
    thrown = caught;
  }
  expect(thrown).toBeInstanceOf(error);
  expect((thrown as Error).message).toMatch(message);
  expect((thrown as Error).message).toMatch(/Fix: /);
  expect(snapshot(made.pool, made.batch)).toBe(before);
}

describe("reserve refuses, with nothing changed,", () => {
  test.each([NaN, -1, 1.5, Infinity, 2 ** 31, "1", undefined, null])("%p new tokens", (count) => {
    refuses(
      ({ pool, long, fork }) => pool.reserve([fork, long], [1, count as number]),
      OptionError,
      /^newTokens\[1\] must be an integer from 0/,
    );
  });

  test("counts of another number than the sequences", () => {
    refuses(({ pool, long }) => pool.reserve([long], [1, 2]), OptionError, /newTokens\.length/);
    refuses(
      ({ pool, long }) => pool.reserve([long], undefined as unknown as number[]),
      OptionError,
      /^newTokens must be a list/,
    );
  });

  test("a sequence given twice", () => {
    refuses(
      ({ pool, long, fork }) => pool.reserve([long, fork, long], [1, 1, 1]),
      OptionError,
      /^sequences\[2\] must be given once per step/,
    );
  });

  test("a freed sequence", () => {
    refuses(
      ({ pool, long, freed }) => pool.reserve([long, freed], [1, 1]),
      DisposedError,
      /^sequence 1 was disposed/,
    );
  });

  test("what is no sequence of the pool", () => {
    for (const other of ["foreign", undefined, {}, 3])
      refuses(
        ({ pool, long, foreign }) =>
          pool.reserve([long, (other === "foreign" ? foreign : other) as Sequence], [1, 1]),
        OptionError,
        /^sequences\[1\] must be a sequence of this pool/,
      );
    refuses(
      ({ pool, long }) => pool.reserve(long as unknown as Sequence[], [1]),
      OptionError,
      /^sequences must be an array/,
    );
  });

  test("a padding below the step's tokens", () => {
    for (const padTo of [2, -1, NaN, 3.5])
      refuses(({ pool, long }) => pool.reserve([long], [3], { padTo }), OptionError, /^padTo must/);
  });

  test("positions that are too few, negative or NaN", () => {
    for (const positions of [[1], [1, -2], [1, NaN], [1, 0.5], [1, 2 ** 31]])
      refuses(
        ({ pool, long }) => pool.reserve([long], [2], { positions }),
        OptionError,
        /^positions/,
      );
  });

  test("more tokens than int32 counts", () => {
    refuses(
      ({ pool, long }) => pool.reserve([long], [0x7fffffff]),
      OptionError,
      /^newTokens\[0\] must be at most/,
    );
  });

  test("more pages than are free, as a result", () => {
    const { pool, batch, long, fork } = fixture();
    const before = snapshot(pool, batch);
    const result = pool.reserve([fork, long], [60, 5]);
    expect(result.ok).toBe(false);
    expect(snapshot(pool, batch)).toBe(before);
  });
});

describe("Sequence refuses, with nothing changed,", () => {
  test.each([NaN, -1, 11, 1.5, "3"])("to truncate to %p", (length) => {
    refuses(({ long }) => long.truncate(length as number), OptionError, /^length must/);
  });

  test("to truncate into what its window has dropped", () => {
    refuses(({ fork }) => fork.truncate(6), OptionError, /^length must be 0, or long enough/);
  });

  test.each([[[-1]], [[2]], [[0, 0]], [[1, 0]], [[NaN]], [[0.5]]])("to accept %p", (accepted) => {
    refuses(({ fork }) => fork.compact(accepted), OptionError, /^accepted\[\d\] must/);
  });

  test("to accept what is no list", () => {
    for (const accepted of [undefined, null, 3, {}, "01"])
      refuses(
        ({ fork }) => fork.compact(accepted as unknown as number[]),
        OptionError,
        /^accepted must be a list/,
      );
  });

  test("to compact into a shared page when none is free to copy it to", () => {
    const pool = new SequencePool({ pageSize: 4, groups: [{ pages: 2 }], maxSequences: 2 });
    const sequence = pool.create();
    pool.reserve([sequence], [8]);
    const fork = sequence.fork();
    const before = snapshot(pool);
    expect(() => sequence.compact([0, 2])).toThrow(OutOfPagesError);
    expect(snapshot(pool)).toBe(before);
    fork.free();
    sequence.compact([0, 2]);
    expect(sequence.length).toBe(2);
  });

  test("to be used once freed, but not to be freed again", () => {
    const uses: ((sequence: Sequence) => unknown)[] = [
      (sequence) => sequence.length,
      (sequence) => sequence.pageCount,
      (sequence) => sequence.pages(),
      (sequence) => sequence.fork(),
      (sequence) => sequence.truncate(0),
      (sequence) => sequence.compact([]),
    ];
    for (const use of uses) refuses(({ freed }) => use(freed), DisposedError, /^sequence 1 was/);
    const { pool, batch, freed } = fixture();
    const before = snapshot(pool, batch);
    freed.free();
    freed[Symbol.dispose]();
    expect(snapshot(pool, batch)).toBe(before);
  });

  test("a group that is not there", () => {
    refuses(({ long }) => long.pages(2), OptionError, /^group must/);
    refuses(({ long }) => long.pages(NaN), OptionError, /^group must/);
  });
});

describe("SequencePool refuses", () => {
  const good = { pageSize: 4, groups, maxSequences: 4 };
  test.each([
    ["pageSize", { ...good, pageSize: 0 }],
    ["pageSize", { ...good, pageSize: NaN }],
    ["maxSequences", { ...good, maxSequences: 0 }],
    ["layers", { ...good, layers: -1 }],
    ["groups", { ...good, groups: [] }],
    ["groups", { ...good, groups: undefined as unknown as typeof groups }],
    ["groups[0].pages", { ...good, groups: [{ pages: 0 }] }],
    ["groups[0].pages", { ...good, pageSize: 1 << 20, groups: [{ pages: 1 << 20 }] }],
    ["groups[1].windowLeft", { ...good, groups: [{ pages: 1 }, { pages: 1, windowLeft: -2 }] }],
  ])("a bad %s", (option, options) => {
    expect(() => new SequencePool(options)).toThrow(OptionError);
    expect(() => new SequencePool(options)).toThrow(`${option} must be`);
  });

  test("more sequences than it has room for", () => {
    const { pool, long } = fixture();
    pool.create();
    pool.create();
    const before = snapshot(pool);
    const message = /^maxSequences must be more than the sequences alive \(got 4\)/;
    expect(() => pool.create()).toThrow(message);
    expect(() => long.fork()).toThrow(message);
    expect(snapshot(pool)).toBe(before);
  });
});

describe("shared prefixes and order refuse", () => {
  const always = (): boolean => true;

  test("another batch, other sequences, freed ones", () => {
    refuses(
      ({ long }) => sharePrefixes({} as Batch, [long], always),
      OptionError,
      /^batch must be a batch made by reserve/,
    );
    refuses(
      ({ batch, long, fork }) => sharePrefixes(batch, [fork, long], always),
      OptionError,
      /^sequences\.length/,
    );
    refuses(
      ({ batch, long }) => sharePrefixes(batch, [long], always),
      OptionError,
      /^sequences\[0/,
    );
    refuses(
      ({ batch, freed }) => sharePrefixes(batch, [freed], always),
      DisposedError,
      /^sequence/,
    );
  });

  test("too little room, freed sequences", () => {
    refuses(
      ({ long }) => orderByPrefix([long], new Int32Array(0)),
      OptionError,
      /^into\.length must be 1 or more/,
    );
    refuses(({ freed }) => orderByPrefix([freed], new Int32Array(1)), DisposedError, /^sequence/);
  });
});

describe("PrefixIndex refuses, with nothing changed,", () => {
  const tokens = Int32Array.from({ length: 8 }, (_, i) => i);

  test("tokens that are no Int32Array", () => {
    const list = [1, 2] as unknown as Int32Array;
    refuses(
      ({ pool }) => new PrefixIndex(pool).match(list),
      OptionError,
      /^tokens must be an Int32/,
    );
    refuses(
      ({ pool, long }) => new PrefixIndex(pool).insert(list, long),
      OptionError,
      /^tokens must/,
    );
  });

  test("more tokens than the sequence has, freed and foreign sequences", () => {
    const many = new Int32Array(11);
    refuses(
      ({ pool, long }) => new PrefixIndex(pool).insert(many, long),
      OptionError,
      /^tokens\.length must be at most the sequence's length \(10\)/,
    );
    refuses(
      ({ pool, freed }) => new PrefixIndex(pool).insert(tokens, freed),
      DisposedError,
      /^sequence 1/,
    );
    refuses(
      ({ pool, foreign }) => new PrefixIndex(pool).insert(tokens, foreign),
      OptionError,
      /^sequence must/,
    );
  });

  test("to evict a bad count or group", () => {
    for (const count of [-1, NaN, 0.5])
      refuses(({ pool }) => new PrefixIndex(pool).evict(count), OptionError, /^pages must/);
    refuses(({ pool }) => new PrefixIndex(pool).evict(1, 2), OptionError, /^group must/);
  });

  test("matches of another pool, and those older than an eviction", () => {
    const { pool, long, fork, foreign } = fixture();
    const index = new PrefixIndex(pool);
    index.insert(tokens, long);
    const match = index.match(tokens);
    const before = snapshot(pool);
    expect(() => foreign.pool.create({ prefix: match })).toThrow(/prefix must be a match made by/);
    expect(snapshot(pool)).toBe(before);
    long.free();
    fork.free();
    expect(match.stale).toBe(false);
    expect(index.evict(1)).toBe(1);
    expect(match.stale).toBe(true);
    expect(() => pool.create({ prefix: match })).toThrow(OptionError);
    const next = index.match(tokens);
    expect(next.stale).toBe(false);
    index.clear();
    expect(next.stale).toBe(true);
  });
});
