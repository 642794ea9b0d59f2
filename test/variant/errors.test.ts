import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { OptionError, VariantError } from "../../src/errors.ts";
import {
  type CudaVariantDefinition,
  defineCudaVariant,
  defineVariant,
} from "../../src/variant/define.ts";
import { softCap } from "../../src/variant/library.ts";
import type { VariantMatrix } from "../../src/variant/value.ts";
import type { Bool, F32, I32 } from "../../src/variant/values.ts";

const lines = readFileSync(import.meta.path, "utf8").split("\n");

/** The line of this file that ends in a comment with this name. */
function lineOf(name: string): number {
  const at = lines.findIndex((line) => line.endsWith(`// ${name}`));
  if (at < 0) throw new Error(`no line is marked ${name}`);
  return at + 1;
}

function errorOf(body: () => unknown): Error {
  try {
    body();
  } catch (error) {
    return error as Error;
  }
  throw new Error("nothing was thrown");
}

/** Casts what a compiler would refuse. */
const untyped = <T>(value: unknown) => value as T;
const tensors = {
  bias: { dtype: "f32", shape: [4, "any"] },
  bytes: { dtype: "u8", shape: ["queryHeads"] },
} as const;
const scalars = { cap: "f32", window: "i32" } as const;
type Context = Record<string, I32> & { cap: F32 };
type Logits = (x: F32, context: Context) => F32;

/** Marked line, hook, and what the message says of the fault and of its fix. */
const cases: [string, { logits: Logits }, RegExp, RegExp][] = [
  [
    "an I32 result",
    {
      logits: (x, { key }) => {
        return untyped<F32>(key.add(x.toI32())); // an I32 result
      },
    },
    /has to return an F32 \(got an I32\)/,
    /toF32\(\)/,
  ],
  [
    "a Bool result",
    {
      logits: (x) => {
        const bent = x.tanh();
        return untyped<F32>(bent.lt(0.5)); // a Bool result
      },
    },
    /has to return an F32 \(got a Bool\)/,
    /select/,
  ],
  [
    "an undeclared tensor",
    {
      logits: (x, context) => {
        const table = context["biass"]; // an undeclared tensor
        return x.add(table.toF32());
      },
    },
    /there is no biass here/,
    /declare it in tensors or scalars, or use one of .*cap, window, bias, bytes/,
  ],
  [
    "an input of another hook",
    {
      logits: (x, context) => {
        const { element } = context; // an input of another hook
        return x.add(element.toF32());
      },
    },
    /there is no element here/,
    /query, key, value, output hooks; logits has query, /,
  ],
  [
    "an index too large",
    {
      logits: (x, { bias, key }) => {
        const value = untyped<{ at(...at: unknown[]): F32 }>(bias).at(4, key); // an index too large
        return x.add(value);
      },
    },
    /index 4 of axis 0 in bias\.at\(\) is outside of the declared 4/,
    /within 0 and 3/,
  ],
  [
    "an index below 0",
    {
      logits: (x, { bias }) => {
        const value = untyped<{ at(...at: unknown[]): F32 }>(bias).at(0, -1); // an index below 0
        return x.add(value);
      },
    },
    /index -1 of axis 1/,
    /start at 0/,
  ],
  [
    "an index too few",
    {
      logits: (x, { bias, key }) => {
        const value = untyped<{ at(...at: unknown[]): F32 }>(bias).at(key); // an index too few
        return x.add(value);
      },
    },
    /got 1 indices, the tensor has 2 axes/,
    /\[4, any\]/,
  ],
  [
    "a fraction",
    {
      logits: (x, { bias, key }) => {
        const value = untyped<{ at(...at: unknown[]): F32 }>(bias).at(x, key); // a fraction
        return x.add(value);
      },
    },
    /index 0 of bias\.at\(\) is an F32/,
    /toI32\(\)/,
  ],
  [
    "divided by 0",
    {
      logits: (x, { key }) => {
        const none = key.sub(key).toF32();
        const all = x.div(none); // divided by 0
        return all;
      },
    },
    /div by a constant 0/,
    /divide by something else/,
  ],
  [
    "a whole remainder of 0",
    {
      logits: (x, { key }) => {
        const rest = key.mod(0); // a whole remainder of 0
        return x.add(rest.toF32());
      },
    },
    /mod by a constant 0/,
    /divide by something else/,
  ],
  [
    "a branch",
    {
      logits: (x, { key, query }) => {
        if (key.gt(query)) return x.mul(2); // a branch
        return x;
      },
    },
    /no result uses this comparison: did a branch look at it\?/,
    /condition\.select\(a, b\)/,
  ],
  [
    "an and of JavaScript",
    {
      logits: (x, { key }) => {
        const both = key.gt(3) && key.lt(9); // an and of JavaScript
        return both.select(x, 0);
      },
    },
    /did a branch look at it\?/,
    /a\.and\(b\)/,
  ],
  [
    "an endless loop",
    {
      logits: (x, { key }) => {
        let power = key;
        while (power.lt(1000)) power = power.mul(2); // an endless loop
        return x.add(power.toF32());
      },
    },
    /more than 4096 values were made/,
    /loop over numbers of JavaScript/,
  ],
  [
    "an operator of JavaScript",
    {
      logits: (x, { key }) => {
        const twice = untyped<number>(key) * 2; // an operator of JavaScript
        return x.add(twice);
      },
    },
    /an I32 of a hook was used as a number or text of JavaScript/,
    /a\.add\(b\)/,
  ],
  [
    "a value as text",
    {
      logits: (x) => {
        const name = `${x}`; // a value as text
        return x.add(name.length);
      },
    },
    /an F32 of a hook was used as a number or text/,
    /a\.add\(b\)/,
  ],
  [
    "mixed types",
    {
      logits: (x, { key }) => {
        const sum = x.add(untyped<F32>(key)); // mixed types
        return sum;
      },
    },
    /add takes an F32 or a number \(got an I32\)/,
    /convert with toF32\(\)/,
  ],
  [
    "a fraction for an I32",
    {
      logits: (x, { key }) => {
        const half = key.mul(0.5); // a fraction for an I32
        return x.add(half.toF32());
      },
    },
    /mul on an I32 got 0\.5/,
    /toF32\(\) first/,
  ],
  [
    "a number beyond F32",
    {
      logits: (x) => {
        const much = x.add(1e39); // a number beyond F32
        return much;
      },
    },
    /add got 1e\+39/,
    /a number that an F32 holds/,
  ],
  [
    "a sum over nothing",
    {
      logits: (x) => {
        const sum = x.sum(); // a sum over nothing
        return sum;
      },
    },
    /sum\(\) over a vector was asked for in the logits hook/,
    /query, key, value hooks/,
  ],
  [
    "fp8 stored",
    {
      logits: (x, { bytes, head }) => {
        untyped<{ put(...at: unknown[]): void }>(bytes).put(1, head); // fp8 stored
        return x;
      },
    },
    /bytes\.put\(\) to a tensor of u8/,
    /f32, f16, bf16 or i32/,
  ],
];

describe("a hook's fault is shown at its line", () => {
  test.each(cases)("%s", (name, { logits }, problem, fix) => {
    const definition = { name: "faulty", tensors, scalars, logits: untyped<() => F32>(logits) };
    const error = errorOf(() => [defineVariant(definition)]);
    expect(error).toBeInstanceOf(VariantError);
    const { message, variant, hook, place, code } = error as VariantError;
    expect({ variant, hook, code }).toEqual({
      variant: "faulty",
      hook: "logits",
      code: "VARIANT",
    });
    expect(place).toEqual({ file: import.meta.path, line: lineOf(name) });
    expect(message).toStartWith(`variant "faulty", logits hook at ${place!.file}:${place!.line}: `);
    expect(message).toMatch(problem);
    expect(message.slice(message.indexOf("Fix: "))).toMatch(fix);
  });

  test("a hook that ends in the faulty call, and has left the stack by then", () => {
    const error = errorOf(() => [
      defineVariant({
        name: "short",
        logits: (x) => x.div(0), // a short hook
      }),
    ]);
    const line = lineOf("a short hook");
    expect((error as VariantError).place).toEqual({ file: import.meta.path, line });
  });

  test("a variant of the library is shown where it was asked for", () => {
    const error = errorOf(() => [softCap({ cap: Number.NaN })]);
    expect(error).toBeInstanceOf(OptionError);
    expect(error.message).toContain("variant.scalars.cap.fallback must be a finite f32");
  });
});

describe("other hooks", () => {
  const refused = (definition: object) =>
    errorOf(() => defineVariant(untyped<Parameters<typeof defineVariant>[0]>(definition))).message;

  test("a mask that is no Bool", () => {
    const number = refused({ name: "m", mask: ({ key }: Context) => key });
    expect(number).toContain("mask hook");
    expect(number).toContain("it has to return a Bool (got an I32). Fix: return a comparison.");
    const identity = refused({ name: "m", mask: ({ key, query }: Context) => key === query });
    expect(identity).toContain("(got the boolean false). Fix: compare with eq");
  });

  test("a body without a return, and a promise", () => {
    expect(refused({ name: "m", logits: () => {} })).toContain("a body in braces needs a return");
    expect(refused({ name: "m", logits: async (x: F32) => x })).toContain("got a promise");
  });

  test("stores outside of logits", () => {
    const message = refused({
      name: "m",
      tensors: { t: { dtype: "f32", shape: [1] } },
      output: (x: F32, { t }: { t: { put(...all: unknown[]): void } }) => [t.put(x, 0), x][1],
    });
    expect(message).toContain("t.put() in the output hook. Fix: store in the logits hook.");
  });

  test("a tensor that is read and stored to", () => {
    const message = refused({
      name: "m",
      tensors: { t: { dtype: "f32", shape: [1] } },
      logits: (x: F32, { t }: { t: { put(...all: unknown[]): void; at(i: number): F32 } }) => {
        t.put(x, 0);
        return x.add(t.at(0));
      },
    });
    expect(message).toContain("the tensor t is read and stored to");
  });

  test("values that were kept from another hook", () => {
    let kept: F32 | undefined;
    const message = refused({
      name: "m",
      query: (x: F32) => (kept = x),
      logits: (x: F32) => x.add(kept!),
    });
    expect(message).toContain("add got a value of another hook");
    expect(refused({ name: "m", query: (x: F32) => (kept = x), logits: () => kept })).toContain(
      "it returned a value of another hook",
    );
  });

  test("values look like what they are to console.log", () => {
    let seen = "";
    defineVariant({
      name: "m",
      logits: (x, { key }) => {
        seen = `${Bun.inspect(x.mul(2))} ${Bun.inspect([key])}`;
        return x;
      },
    });
    expect(seen).toContain("F32 (mul in the logits hook: known only in the kernel)");
    expect(seen).toContain("I32 (input in the logits hook");
    expect(seen).not.toContain("trace");
  });

  test("log-sum-exp without softmax", () => {
    const output = (x: F32, { lse }: { lse: F32 }) => x.mul(lse);
    expect(refused({ name: "m", softmax: false, output })).toContain(
      "with softmax: false there is no log-sum-exp",
    );
  });

  test("no rotation of an odd number of elements, none of what is no vector", () => {
    const turn = (pair: I32) => [pair.toF32(), pair.toF32()];
    const rotate = (of: (x: F32) => F32, dim: number) => (x: F32) =>
      untyped<{ rotate(...all: unknown[]): F32 }>(of(x)).rotate({ dim }, turn);
    expect(refused({ name: "m", key: rotate((x) => x, 3) })).toContain("rotate got dim 3");
    expect(refused({ name: "m", key: rotate((x) => x.sum(), 4) })).toContain("that is no vector");
  });

  test("products of rows and matrices, where there are none", () => {
    const w = { dtype: "f32", shape: ["queryHeads", 8, 8] } as const;
    type Own = Record<"w", VariantMatrix> & Record<"lse", F32>;
    const times = (x: F32, { w }: Record<string, unknown>) => x.matmul(w as VariantMatrix);
    const product = (shape: readonly unknown[], dtype = "f32") => {
      const spec = untyped<typeof w>({ dtype, shape });
      return refused({ name: "m", tensors: { w: spec }, query: times });
    };
    expect(product(["queryHeads", 8])).toContain("got w, declared as [queryHeads, 8]");
    expect(product([8])).toContain("got w, declared as [8]");
    expect(product(["kvHeads", 8, 8])).toContain("got w, declared as [kvHeads, 8, 8]");
    expect(product([8, "any"])).toContain("declare [rows, columns]");
    expect(product([8, 8], "i32")).toContain("got w, a tensor of i32");
    const tensors = { w };
    for (const hook of ["key", "value", "logits"] as const)
      expect(refused({ name: "m", tensors, [hook]: times })).toContain(
        `matmul() over a vector was asked for in the ${hook} hook`,
      );
    const hook = (body: (x: F32, own: Own) => F32) => untyped<(x: F32) => F32>(body);
    const query = (body: (x: F32, own: Own) => F32) =>
      refused({ name: "m", tensors, query: hook(body) });
    expect(query((x) => times(x, { w: 3 }))).toContain("matmul() got the number 3");
    expect(query((x, { w }) => x.matmul(w).matmul(w))).toContain("multiplied by two matrices");
    expect(query((x, { w }) => x.matmul(w).add(x))).toContain("x was used beside its product");
    expect(query((x, { w }) => x.matmul(w).mul(x.sum()))).toContain("x was used beside");
    const output = hook((_, { lse, w }) => lse.matmul(w));
    expect(refused({ name: "m", tensors, output })).toContain("a value that is no vector");
  });

  test("what a hook throws comes through as it is", () => {
    const fault = new Error("of the user's");
    const logits = () => {
      throw fault;
    };
    expect(errorOf(() => defineVariant({ name: "m", logits }))).toBe(fault);
  });

  test("a comparison that only a chosen branch lost is used all the same", () => {
    const mask = ({ key, query }: { key: I32; query: I32 }): Bool => {
      const seen = key.le(query);
      return seen.select(seen, seen);
    };
    expect(defineVariant({ name: "m", mask }).hooks.mask!.op).toBe("le");
  });
});

describe("declarations", () => {
  const good = { name: "d", tensors: { t: { dtype: "f32", shape: [1] } } };
  const bad: [string, object, RegExp][] = [
    ["no name", { name: "" }, /variant\.name must be a text/],
    ["an unknown part", { ...good, logit: () => {} }, /must be one of name, .*got "logit"/],
    ["a hook that is no function", { ...good, mask: 3 }, /variant\.mask must be a function/],
    ["softmax as text", { ...good, softmax: "no" }, /variant\.softmax must be true or false/],
    ["tensors as a list", { name: "d", tensors: [] }, /variant\.tensors must be an object/],
    [
      "a dtype",
      { name: "d", tensors: { t: { dtype: "f64", shape: [1] } } },
      /variant\.tensors\.t\.dtype must be one of f32, .*got "f64"/,
    ],
    [
      "no axes",
      { name: "d", tensors: { t: { dtype: "f32", shape: [] } } },
      /variant\.tensors\.t\.shape must be a list of 1 to 4 extents/,
    ],
    [
      "an extent",
      { name: "d", tensors: { t: { dtype: "f32", shape: [0] } } },
      /variant\.tensors\.t\.shape must be positive integers and names among queryHeads/,
    ],
    [
      "a name of an input",
      { name: "d", tensors: { key: good.tensors.t } },
      /an identifier that nothing else of the hooks has \(got "key"\)/,
    ],
    ["a name twice", { ...good, scalars: { t: "f32" } }, /\(got "t"\)/],
    ["a name that is none", { name: "d", scalars: { "a b": "f32" } }, /\(got "a b"\)/],
    ["a scalar's type", { name: "d", scalars: { s: "f16" } }, /variant\.scalars\.s must be "f32"/],
    [
      "a scalar's fallback",
      { name: "d", scalars: { s: { type: "i32", fallback: 0.5 } } },
      /variant\.scalars\.s\.fallback must be a finite i32 \(got 0\.5\)/,
    ],
    [
      "nine tensors",
      { name: "d", tensors: Object.fromEntries([..."abcdefghi"].map((n) => [n, good.tensors.t])) },
      /the number of variant\.tensors must be at most 8 \(got 9\)/,
    ],
  ];
  test.each(bad)("%s", (_, definition, message) => {
    const error = errorOf(() =>
      defineVariant(untyped<Parameters<typeof defineVariant>[0]>(definition)),
    );
    expect(error).toBeInstanceOf(OptionError);
    expect(error.message).toMatch(message);
  });

  const cuda: [string, Partial<CudaVariantDefinition>, RegExp][] = [
    ["no source", { source: " " }, /variant\.source must be CUDA C\+\+/],
    ["no hooks", { hooks: [] }, /variant\.hooks must be a list of query, key/],
    ["a hook twice", { hooks: ["mask", "mask"] }, /variant\.hooks must be a list/],
    ["an unknown hook", { hooks: untyped(["score"]) }, /variant\.hooks must be a list/],
    ["a traced hook", untyped({ mask: () => {} }), /got "mask"/],
  ];
  test.each(cuda)("CUDA: %s", (_, part, message) => {
    const definition = { name: "c", source: "text", hooks: ["logits"] as const, ...part };
    const error = errorOf(() => defineCudaVariant(definition));
    expect(error).toBeInstanceOf(OptionError);
    expect(error.message).toMatch(message);
  });

  test("CUDA sources know where they stand", () => {
    const made = defineCudaVariant({ name: "c", source: "text", hooks: ["logits"] }); // a source
    expect(made.cuda).toEqual({
      source: "text",
      hooks: ["logits"],
      place: { file: import.meta.path, line: lineOf("a source") },
    });
    expect(made.hooks).toEqual({});
  });
});
