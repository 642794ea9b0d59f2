import { OptionError } from "../errors.ts";
import { type Argument, functions, type Kind, type Native, partsOf } from "./symbols.ts";

interface Check {
  /** JavaScript that is true where `x` may cross. */
  readonly test: (x: string) => string;
  readonly allowed: string;
}

const handle: Check = { test: (x) => `${x} > 0`, allowed: "a handle" };
const view: Check = { test: (x) => `${x}?.byteLength > 0`, allowed: "memory, not empty" };

/** What bun:ffi does not look at: it makes an address of NaN, and cuts numbers to their type. */
const checks: Readonly<Record<Kind, Check>> = {
  device: handle,
  stream: handle,
  event: handle,
  graph: handle,
  module: handle,
  kernel: handle,
  comm: handle,
  address: {
    test: (x) => `${x} > 0 && Number.isSafeInteger(${x})`,
    allowed: "an address, an integer of 1 or more",
  },
  u64: {
    test: (x) => `${x} >= 0 && Number.isSafeInteger(${x})`,
    allowed: "an integer from 0 to 2^53 - 1",
  },
  i32: {
    test: (x) => `typeof ${x} === "number" && (${x} | 0) === ${x}`,
    allowed: "an integer from -2^31 to 2^31 - 1",
  },
  view,
  "view?": { test: (x) => `(${x} === null || ${view.test(x)})`, allowed: "memory or null" },
};

/** The functions of an opened library, unchecked. */
export type RawFunctions = Readonly<Record<string, (...values: never[]) => unknown>>;

interface Named {
  readonly kind: Kind;
  readonly name: string;
}

/**
 * The native functions behind checks of their arguments: a wrong one is an OptionError that names
 * function and argument, and nothing is called. Each function has a check of its own, compiled from
 * the table. One closure for all would call functions that the engine cannot foresee: a launch,
 * which takes 8 ns on the way in, would take 20.
 */
export function guarded(raw: RawFunctions): Native {
  const checked = Object.entries<readonly Argument[]>(functions).map(([name, written]) => {
    const list = written.map(partsOf);
    const values = list.map((_, i) => `x${i}`);
    const tests = list.map(({ kind }, i) => checks[kind].test(`x${i}`)).join(" && ") || "true";
    const body = `return (${values}) => ${tests} ? call(${values}) : refuse(${values})`;
    const refuse = (...given: unknown[]) => {
      throw refusal(name, list, given);
    };
    return [name, new Function("call", "refuse", body)(raw[name], refuse)];
  });
  return Object.fromEntries(checked) as Native;
}

function refusal(called: string, list: readonly Named[], given: readonly unknown[]): OptionError {
  const passes = ({ kind }: Named, i: number) =>
    new Function("x", `return ${checks[kind].test("x")}`)(given[i]) as boolean;
  const wrong = list.findIndex((argument, i) => !passes(argument, i));
  const { kind, name } = list[wrong];
  const fix = `pass ${called} what its signature in src/ffi/symbols.ts says.`;
  return new OptionError(`${name} of ${called}`, given[wrong], checks[kind].allowed, fix);
}
