/** Mutants of attention kernels: each has to be caught by a case that runs its kernel. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expand } from "../../src/jit/specialization.ts";
import type { Case } from "../support/cases.ts";
import { seeded } from "../support/random.ts";
import {
  each,
  imageOf,
  type Mutant,
  outcomeOf,
  patienceMs,
  schedules,
  type ThreadKind,
  watch,
  type Watched,
  withoutEachWait,
  withOther,
  wrong,
} from "./mutants.ts";
import type { Job, Outcome } from "./run-mutant.ts";

/** A specialisation of a kernel, by a case that runs it. */
export interface Subject {
  /** Its class, or the merge. */
  readonly kernel: string;
  /** The class's other kernel, for few tiles. */
  readonly few?: boolean;
  readonly c: Case;
  /** Name of the variant that multiplies its rows by matrices. */
  readonly projection?: string;
  /** Keys that the device's lengths leave of each request; none: it has no lengths. */
  readonly kept?: number[];
  /** Tokens that all requests share, read as a level of its own; none: they share nothing. */
  readonly prefix?: number;
  /** Multiprocessors: few, so that a block takes several records, or many, so that rows split. */
  readonly sms: number;
}

/** A bound that is off by one: subject, what goes wrong, a piece of its text, what it becomes. */
export type LooseBound = readonly [subject: string, what: string, piece: string, other: string];

/** A subject's text and image, and what it prints. */
interface Original {
  readonly name: string;
  readonly subject: Subject;
  readonly text: string;
  readonly expected: string;
  readonly image: { path: string; bytes: Uint8Array };
  /** How it ends under the race detector as it is, by the kind of threads, once that is asked. */
  readonly watched: Partial<Record<ThreadKind, Promise<Watched>>>;
}

/** What a child process says of a subject's case, run with an image in the kernel's place. */
function run(subject: Subject, order: string, image?: string, ms?: number): Promise<string> {
  const { sms, ...rest } = subject;
  const job: Job = image === undefined ? rest : { ...rest, image };
  return outcomeOf("run-mutant.ts", job, order, sms, ms);
}

/** Subjects whose outcome is right by the first schedule. Errors: an Error that names one. */
export function originalsOf(
  subjects: Readonly<Record<string, Subject>>,
  folder: string,
): Promise<Original[]> {
  return each(Object.entries(subjects), async ([name, subject]) => {
    const expected = await run(subject, "fifo");
    if (!expected.startsWith("{")) throw new Error(`${name}: ${expected}`);
    const text = expand((JSON.parse(expected) as Outcome).specialization);
    return { name, subject, text, expected, image: await imageOf(text, folder), watched: {} };
  });
}

/** By schedule, outcomes of a subject that differ from the first's. */
async function differingSchedules({ name, subject, image, expected }: Original): Promise<string[]> {
  const differing: string[] = [];
  for (const order of schedules) {
    const outcome = await run(subject, order, image.path);
    if (outcome !== expected) differing.push(`${name}, ${order}: ${outcome}`);
  }
  return differing;
}

/**
 * The mutants of all subjects, without each wait that a source below `sources` has and with loose
 * bounds, by name: those of one name are one change of what the subjects share.
 */
export function mutantsOf(
  originals: readonly Original[],
  sources: string,
  looseBounds: readonly LooseBound[] = [],
): Map<string, { of: Original; mutant: Mutant }[]> {
  const all = originals.flatMap((of) =>
    withoutEachWait(of.text, sources)
      // Kernels of a stream run one after the other here.
      .filter(({ name }) => !name.includes("pdl_wait"))
      .map((mutant) => ({ of, mutant })),
  );
  for (const [name, what, piece, other] of looseBounds) {
    const of = originals.find((one) => one.name === name)!;
    all.push({ of, mutant: withOther(of.text, `${name}: ${what}`, piece, other) });
  }
  return Map.groupBy(all, ({ mutant }) => mutant.name);
}

/**
 * So many of what has names, which a seed picks. Mutants that are known to survive come last: they
 * take every schedule and the race detector, and show the least.
 */
export function someOf<T>(
  named: ReadonlyMap<string, T>,
  seed: number,
  count: number,
  surviving: Readonly<Record<string, string>> = {},
): Map<string, T> {
  const random = seeded(seed);
  const drawn = [...named].map((entry) => {
    return { entry, place: random.next() + (entry[0] in surviving ? 1 : 0) };
  });
  const order = drawn.sort((a, b) => a.place - b.place).map(({ entry }) => entry);
  return new Map(order.slice(0, count));
}

/** How a subject's own kernel ends under the race detector, which is asked once. */
function watchedOf(of: Original, kind: ThreadKind, folder: string): Promise<Watched> {
  return (of.watched[kind] ??= watchText(of.subject, of.text, folder, kind));
}

/**
 * Of so many of the subjects, which a seed picks, what is wrong with them as they are: outcomes
 * that differ by schedule, and what the race detector says. `racing` names those of which it may
 * report.
 */
export async function faultsOf(
  originals: readonly Original[],
  seed: number,
  count: number,
  folder: string,
  racing: readonly string[] = [],
): Promise<string[]> {
  const some = someOf(new Map(originals.map((of) => [of.name, of])), seed, count);
  const found = await each([...some], async ([name, of]) => {
    const faults = await differingSchedules(of);
    const { report, failure } = await watchedOf(of, "warps", folder);
    if (failure !== "") faults.push(`${name}, watched: ${failure}`);
    if ((report !== "") !== racing.includes(name)) faults.push(`${name}: ${report || "no race"}`);
    return faults;
  });
  return found.flat();
}

/** A subject with that text in its kernel's place under the race detector. */
function watchText(
  subject: Subject,
  text: string,
  folder: string,
  kind: ThreadKind,
): Promise<Watched> {
  const { sms, ...rest } = subject;
  const file = join(folder, `${Bun.hash(text).toString(16)}.cu`);
  writeFileSync(file, text);
  return watch("run-mutant.ts", { ...rest, text: file }, sms, kind);
}

/** By name, how a mutant is caught; undefined: it is not. */
export async function catchAll(
  mutants: ReadonlyMap<string, readonly { of: Original; mutant: Mutant }[]>,
  folder: string,
): Promise<Map<string, string | undefined>> {
  const found = await each([...mutants], async ([name, some]) => {
    for (const { of, mutant } of some) {
      const how = await catchOne(of, mutant, folder);
      if (how !== undefined) return [name, how] as const;
    }
    return [name, undefined] as const;
  });
  return new Map(found);
}

async function catchOne(of: Original, { name, text }: Mutant, folder: string) {
  const image = await imageOf(text, folder);
  // The change is in code that this specialisation leaves out.
  if (Buffer.compare(image.bytes, of.image.bytes) === 0) return undefined;
  for (const order of schedules) {
    const outcome = await run(of.subject, order, image.path, patienceMs);
    if (outcome === of.expected) continue;
    if (!wrong.test(outcome)) throw new Error(`${name}: ${outcome}`);
    return `${of.name}, ${order}: ${outcome}`;
  }
  for (const kind of ["warps", "lanes"] as const) {
    // Where the kernel itself is reported, a report of the mutant says nothing.
    if ((await watchedOf(of, kind, folder)).report !== "") continue;
    const { report, failure } = await watchText(of.subject, text, folder, kind);
    if (report !== "") return `${of.name}: ${report}`;
    if (failure === "") continue;
    // Threads take other turns under the detector: what ends well without it may wait for ever.
    if (!wrong.test(failure)) throw new Error(`${name}, watched: ${failure}`);
    return `${of.name}, watched: ${failure}`;
  }
  return undefined;
}

/** Names that survived without a reason, and those that were caught in spite of one. */
export function unexplained(
  found: ReadonlyMap<string, string | undefined>,
  harmless: Readonly<Record<string, string>>,
): string[] {
  return [...found].flatMap(([name, how]) =>
    (how === undefined) === name in harmless ? [] : [`${name}: ${how ?? "survives"}`],
  );
}
