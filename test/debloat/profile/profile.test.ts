import { describe, expect, test } from "bun:test";
import {
  countOf,
  joinRanges,
  type Ranges,
  subtractRanges,
} from "../../../src/debloat/elf/ranges.ts";
import {
  emptyProfile,
  mergeProfiles,
  type Profile,
  type ProfiledLibrary,
  profiledLibrary,
  profileFigures,
  subtractProfiles,
} from "../../../src/debloat/profile/profile.ts";
import { formatProfile, parseProfile } from "../../../src/debloat/profile/text.ts";
import { DebloatError, InputError } from "../../../src/errors.ts";
import { forSeeds, type Random } from "../../support/random.ts";

const ids = ["00ff", "ab".repeat(20), `sha256:${"5".repeat(64)}`];

function some<T>(random: Random, most: number, make: () => T): T[] {
  return Array.from({ length: random.integer(0, most) }, make);
}

function drawnLibrary(random: Random): ProfiledLibrary {
  const pages = some(random, 8, () => [random.integer(0, 40), random.integer(1, 6)] as const);
  const functions = some(random, 8, () => random.integer(0, 30)).sort((a, b) => a - b);
  return {
    path: random.pick(["/a/libx.so", "/b/libx.so"]),
    bytes: random.integer(1, 9999),
    kernels: [...new Set(some(random, 5, () => `k${random.integer(0, 9)}`))].sort(),
    cubins: [...new Set(some(random, 4, () => random.integer(0, 6)))]
      .sort((a, b) => a - b)
      .map((n) => ({ bytes: n, crc32: 7 * n })),
    globals: [...new Set(some(random, 3, () => `g${random.integer(0, 4)}`))].sort(),
    pages: joinRanges(pages),
    devicePages: joinRanges(pages.map(([first, count]) => [first + 50, count])),
    functions: [...new Set(functions)].map((n) => [n * 64, 16 + n]),
  };
}

function drawn(random: Random): Profile {
  const profile = emptyProfile();
  for (const id of ids) if (random.chance(0.7)) profile.libraries[id] = drawnLibrary(random);
  profile.runs = some(random, 2, () => ({
    command: ["run", `${random.integer(0, 9)}`],
    date: "2026-01-02T03:04:05.000Z",
    host: random.pick(["pages", "functions", "off"] as const),
    gpu: random.pick([null, "sm_90"]),
    driver: null,
    cuda: "13.0",
  }));
  profile.unresolved.kernels = [
    ...new Set(some(random, 3, () => `u${random.integer(0, 3)}`)),
  ].sort();
  return profile;
}

/** All that a profile holds, as one set of words: the oracle that joins and subtracts. */
function words({ libraries, unresolved }: Profile): Set<string> {
  const found = new Set(unresolved.kernels.map((name) => `? ${name}`));
  for (const [id, library] of Object.entries(libraries)) {
    for (const name of library.kernels) found.add(`${id} kernel ${name}`);
    for (const { bytes, crc32 } of library.cubins) found.add(`${id} cubin ${bytes} ${crc32}`);
    for (const name of library.globals) found.add(`${id} global ${name}`);
    for (const page of numbers(library.pages)) found.add(`${id} page ${page}`);
    for (const page of numbers(library.devicePages ?? [])) found.add(`${id} device page ${page}`);
    for (const [vaddr] of library.functions) found.add(`${id} function ${vaddr}`);
  }
  return found;
}

function numbers(ranges: Ranges): Set<number> {
  return new Set(
    ranges.flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i)),
  );
}

describe("ranges", () => {
  test("join, subtract and count agree with sets of numbers", () => {
    forSeeds(300, (random) => {
      const draw = () =>
        some(random, 12, () => [random.integer(0, 60), random.integer(0, 9)] as [number, number]);
      const [a, b] = [draw(), draw()];
      const [joinedA, joinedB] = [joinRanges(a), joinRanges(b)];
      expect(numbers(joinedA)).toEqual(new Set([...numbers(a)].sort((x, y) => x - y)));
      expect(countOf(joinedA)).toBe(numbers(a).size);
      const left = subtractRanges(joinedA, joinedB);
      expect([...numbers(left)]).toEqual([...numbers(joinedA).difference(numbers(joinedB))]);
      expect(joinRanges(left)).toEqual(left);
      for (let i = 1; i < joinedA.length; i++)
        expect(joinedA[i][0]).toBeGreaterThan(joinedA[i - 1][0] + joinedA[i - 1][1]);
    });
  });
});

describe("profiles", () => {
  test("written and read back are the same", () => {
    forSeeds(100, (random) => {
      const profile = drawn(random);
      const text = formatProfile(profile);
      expect(parseProfile(text, "p.json")).toEqual(profile);
      expect(formatProfile(parseProfile(text, "p.json"))).toBe(text);
    });
  });

  test("merge is the union and diff the difference of what they hold", () => {
    forSeeds(200, (random) => {
      const [a, b] = [drawn(random), drawn(random)];
      const merged = mergeProfiles(a, b);
      expect(words(merged)).toEqual(words(a).union(words(b)));
      expect(merged.runs).toEqual([...a.runs, ...b.runs]);
      expect(words(subtractProfiles(a, b))).toEqual(words(a).difference(words(b)));
      // What was merged can be written and read: it is canonical.
      expect(parseProfile(formatProfile(merged), "p.json")).toEqual(merged);
      expect(words(mergeProfiles(b, a))).toEqual(words(merged));
      expect(mergeProfiles(merged, merged).libraries).toEqual(merged.libraries);
    });
  });

  test("what one of two did not watch is not known of both", () => {
    const library = { path: "/x.so", bytes: 1, kernels: [], cubins: [], globals: [], pages: [] };
    const profile = (devicePages?: [number, number][]): Profile => ({
      ...emptyProfile(),
      libraries: { ab: { ...library, functions: [], devicePages } },
    });
    const pagesOf = (...profiles: Profile[]) =>
      mergeProfiles(...profiles).libraries["ab"].devicePages;
    expect(pagesOf(profile([[1, 2]]), profile([[3, 1]]))).toEqual([[1, 3]]);
    expect(pagesOf(profile([[1, 2]]), profile())).toBeUndefined();
    expect(pagesOf(profile(), profile([[1, 2]]))).toBeUndefined();
  });

  test("of two files of one build the larger names it", () => {
    const library = (path: string, bytes: number): Profile => ({
      ...emptyProfile(),
      libraries: {
        ab: { path, bytes, kernels: [], cubins: [], globals: [], pages: [], functions: [] },
      },
    });
    const merged = mergeProfiles(library("/full.so", 9), library("/stripped.so", 5));
    expect(merged.libraries["ab"]).toMatchObject({ path: "/full.so", bytes: 9 });
  });

  test("figures count bytes of pages and functions", () => {
    const profile = emptyProfile();
    profile.libraries["ab"] = {
      path: "/x.so",
      bytes: 1,
      kernels: ["a", "b"],
      cubins: [{ bytes: 1, crc32: 2 }],
      globals: ["g"],
      pages: [
        [0, 2],
        [9, 1],
      ],
      functions: [
        [64, 10],
        [128, 5],
      ],
    };
    expect(profileFigures(profile)).toEqual([
      {
        id: "ab",
        path: "/x.so",
        kernels: 2,
        cubins: 1,
        globals: 1,
        pageBytes: 12_288,
        functions: 2,
        functionBytes: 15,
      },
    ]);
  });

  test("a library is found by its build whatever its name, another build is refused", () => {
    const profile = drawn({ ...fixed, chance: () => true });
    const known = profile.libraries["00ff"];
    expect(profiledLibrary(profile, "00ff", "/elsewhere/renamed.so")).toBe(known);
    expect(profiledLibrary(profile, "1234", "/elsewhere/other.so")).toBeUndefined();
    expect(() => profiledLibrary(profile, "1234", "/elsewhere/libx.so")).toThrow(DebloatError);
    expect(() => profiledLibrary(profile, "1234", "/elsewhere/libx.so")).toThrow(
      /^\/elsewhere\/libx.so: its build is 1234, but the profile was taken with 00ff.* Fix: trace/,
    );
  });
});

const fixed: Random = {
  seed: 0,
  next: () => 0.5,
  integer: (least) => least,
  pick: (values) => values[0],
  chance: () => false,
  normal: () => 0,
};

describe("a corrupt profile names the file, the place and what is allowed", () => {
  const whole = (): Profile => ({
    version: 1,
    runs: [{ command: ["a"], date: "", host: "off", gpu: null, driver: null, cuda: null }],
    libraries: {
      ab: { path: "x", bytes: 1, kernels: [], cubins: [], globals: [], pages: [], functions: [] },
    },
    unresolved: { kernels: [], cubins: [] },
  });
  const broken: [string, (profile: Record<string, never>) => unknown, RegExp][] = [
    ["another version", (p) => ({ ...p, version: 2, more: 1 }), /version must be 1/],
    ["no object", () => [1], /it must be an object/],
    ["null", () => null, /it must be an object/],
    ["an unknown part", (p) => ({ ...p, extra: 1 }), /extra is not known; known are version, runs/],
    ["a missing part", ({ runs: _, ...p }) => p, /runs must be a list/],
    ["no list", (p) => ({ ...p, runs: {} }), /runs must be a list/],
    [
      "a bad key",
      (p) => ({ ...p, libraries: { "../x": p } }),
      /key "..\/x" of libraries must be a build/,
    ],
    ["a key of odd length", (p) => ({ ...p, libraries: { abc: {} } }), /key "abc"/],
    [
      "an empty library",
      (p) => ({ ...p, libraries: { ab: {} } }),
      /libraries.ab.path must be a string/,
    ],
  ];
  test.each(broken)("%s", (_, change, message) => {
    const text = JSON.stringify(change(whole() as never));
    expect(() => parseProfile(text, "some/p.json")).toThrow(InputError);
    expect(() => parseProfile(text, "some/p.json")).toThrow(message);
    expect(() => parseProfile(text, "some/p.json")).toThrow(/^some\/p.json: .* Fix: give/);
  });

  const values: [string, unknown, RegExp][] = [
    ["bytes", -1, /libraries.ab.bytes must be an integer from 0/],
    ["bytes", 1.5, /bytes must be an integer/],
    ["bytes", 1e300, /bytes must be an integer/],
    ["kernels", [1], /kernels\[0\] must be a string/],
    ["cubins", [{ bytes: 1 }], /cubins\[0\].crc32 must be an integer from 0 to 4294967295/],
    ["cubins", [{ bytes: 1, crc32: 2 ** 32 }], /cubins\[0\].crc32/],
    ["pages", [[1]], /pages\[0\] must be a pair/],
    ["pages", [[0, "1"]], /pages\[0\]\[1\] must be an integer/],
    ["functions", [[2 ** 50, 1]], /functions\[0\]\[0\] must be an integer/],
  ];
  test.each(values)("%s of %p", (name, value, message) => {
    const profile = whole();
    Object.assign(profile.libraries["ab"], { [name]: value });
    expect(() => parseProfile(JSON.stringify(profile), "p.json")).toThrow(message);
  });

  test("text that was cut anywhere", () => {
    const text = formatProfile(whole());
    for (let length = 0; length < text.length - 1; length++)
      if (text.slice(0, length).trim() !== text.trim())
        expect(() => parseProfile(text.slice(0, length), "p.json")).toThrow(
          /p.json: it is not JSON/,
        );
  });

  test("keys that mean something to JavaScript", () => {
    for (const key of ["__proto__", "constructor", "toString"]) {
      const text = formatProfile(whole()).replace(`"ab"`, JSON.stringify(key));
      expect(() => parseProfile(text, "p.json")).toThrow(/must be a build id/);
      const extra = formatProfile(whole()).replace(`"version"`, `"${key}": 1, "version"`);
      expect(() => parseProfile(extra, "p.json")).toThrow(/is not known/);
    }
  });

  test("lists in any order, with repeats", () => {
    const profile = whole();
    profile.libraries["ab"].kernels = ["b", "a", "b"];
    profile.libraries["ab"].pages = [
      [5, 2],
      [1, 2],
      [3, 1],
    ];
    profile.libraries["ab"].functions = [
      [64, 1],
      [0, 1],
      [64, 3],
    ];
    const read = parseProfile(JSON.stringify(profile), "p.json").libraries["ab"];
    expect(read.kernels).toEqual(["a", "b"]);
    expect(read.pages).toEqual([
      [1, 3],
      [5, 2],
    ]);
    expect(read.functions).toEqual([
      [0, 1],
      [64, 3],
    ]);
  });
});
