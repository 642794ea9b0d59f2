import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { readLibraryId } from "../../debloat/library.ts";
import { companionPath } from "../../debloat/process/companions.ts";
import { redirectTo } from "../../debloat/process/redirect.ts";
import { sidecarName } from "../../debloat/shrink/shrink.ts";
import { type Check, checked, verifyLibrary } from "../../debloat/verify/verify.ts";
import { OptionError } from "../../errors.ts";
import { counted } from "../../shown.ts";
import { inputs, requireWritable, textStream, writeWhole } from "../outputs.ts";
import { loadProgram } from "./load.ts";

/** Options of `flashbun debloat verify`, as the command line parsed them. */
export interface VerifyArguments {
  sidecar?: string;
  run?: string;
  json?: string;
  quiet?: boolean;
}

interface Pair {
  readonly original: string;
  readonly shrunk: string;
  readonly sidecar?: string;
}

/**
 * Checks shrunk libraries against their originals, each by itself and with --run together.
 * @returns the exit code: 1 when a check failed
 * @throws FlashbunError for files that cannot be read
 */
export async function verifyCommand(files: string[], options: VerifyArguments): Promise<number> {
  const outputs = { "--json": options.json };
  requireWritable(outputs, inputs(files));
  const pairs = pairsOf(files, options.sidecar);
  const stream = textStream(outputs);
  const say = (text: string) => options.quiet || stream.write(text);
  const found: (Pair & { checks: Check[] })[] = [];
  for (const pair of pairs) {
    say(`${basename(pair.original)}\n`);
    const checks = verifyLibrary(pair.original, pair.shrunk, pair.sidecar);
    checks.push(await checkLoading(pair), await checkReadelf(pair));
    for (const check of checks) say(lineOf(check));
    found.push({ ...pair, checks });
    // The mappings of a pair go with their objects, and the next one may be as large.
    Bun.gc(true);
  }
  const runs = options.run === undefined ? [] : await checkRuns(pairs, options.run);
  if (runs.length > 0) say(`${options.run}\n${runs.map(lineOf).join("")}`);
  if (options.json !== undefined)
    await writeWhole(options.json, `${JSON.stringify({ libraries: found, runs }, undefined, 1)}\n`);
  const wrong = [...found.flatMap(({ checks }) => checks), ...runs].filter(
    ({ verdict }) => verdict === "wrong",
  );
  say(wrong.length === 0 ? "all is right\n" : `${counted(wrong.length, "check")} failed\n`);
  return wrong.length === 0 ? 0 : 1;
}

function pairsOf(files: readonly string[], sidecar: string | undefined): Pair[] {
  const originals = files.slice(0, -1);
  const output = files.at(-1)!;
  const isFolder = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory();
  if (originals.length === 0 || (originals.length > 1 && !isFolder(output)))
    throw new OptionError(
      "<lib...>",
      output,
      "originals, then what they became",
      "name the shrunk library, or the folder of all of them, last.",
    );
  return originals.map((original) => {
    const shrunk = isFolder(output) ? join(output, basename(original)) : output;
    if (sidecar === undefined) return { original, shrunk };
    if (!isFolder(sidecar)) return { original, shrunk, sidecar };
    const path = join(sidecar, sidecarName(readLibraryId(original), original));
    return { original, shrunk, sidecar: path };
  });
}

function lineOf({ name, detail, verdict, problems }: Check): string {
  const sentences = problems.map((problem) => `    ${problem}\n`).join("");
  return `  ${name}: ${verdict}${detail === "" ? "" : `, ${detail}`}\n${sentences}`;
}

/** What a program printed and how it ended. */
interface Outcome {
  readonly stdout: Buffer;
  readonly stderr: string;
  /** An exit code, or the name of a signal. */
  readonly end: number | string;
  /** Of the redirected libraries those that it loaded. */
  readonly loaded: number;
  /** Runs of host code that the pager brought back. */
  readonly paged: number;
}

/** Runs a program, with shrunk libraries in the originals' places when pairs are given. */
async function runWith(
  command: string[],
  pairs: readonly Pair[],
  environment: Record<string, string> = {},
): Promise<Outcome> {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "flashbun-verify-")));
  try {
    const env = {
      ...process.env,
      ...environment,
      ...(pairs.length > 0 && replaced(pairs, folder)),
    };
    const child = Bun.spawn(command, { env, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    const [stdout, stderr] = await Promise.all([
      new Response(child.stdout).arrayBuffer(),
      new Response(child.stderr).text(),
    ]);
    const code = await child.exited;
    const opened = filesOpened(folder);
    return {
      stdout: Buffer.from(stdout),
      stderr,
      end: child.signalCode ?? code,
      loaded: pairs.filter((pair) => {
        return [pair.original, pair.shrunk].some((path) => opened.has(realpathSync(path)));
      }).length,
      paged: linesIn(join(folder, "pager")),
    };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/**
 * Libraries whose constructors ran, as the loader noted: under their own paths or redirected ones.
 */
function filesOpened(folder: string): Set<string> {
  const logs = readdirSync(folder)
    .filter((name) => name.startsWith("loader."))
    .map((name) => readFileSync(join(folder, name), "latin1"));
  const paths = logs.flatMap((log) => [...log.matchAll(/calling init: (\/.*)/g)].map(([, p]) => p));
  return new Set(paths.flatMap((path) => (existsSync(path) ? [realpathSync(path)] : [])));
}

function linesIn(path: string): number {
  const isThere = statSync(path, { throwIfNoEntry: false }) !== undefined;
  return isThere ? readFileSync(path, "utf8").split("\n").length - 1 : 0;
}

/**
 * The environment of a program that gets shrunk libraries, and host code back from their sidecars.
 */
function replaced(pairs: readonly Pair[], folder: string): Record<string, string> {
  const replacements = pairs.map(({ original, shrunk }) => ({ original, replacement: shrunk }));
  const sidecars = pairs.filter(({ sidecar }) => sidecar !== undefined);
  for (const { original, sidecar } of sidecars)
    symlinkSync(
      realpathSync(sidecar!),
      join(folder, sidecarName(readLibraryId(original), original)),
    );
  return {
    ...redirectTo(replacements, folder, companionPath("redirect")),
    // The loader notes which files it opened, one file per process.
    LD_DEBUG: "files",
    LD_DEBUG_OUTPUT: join(folder, "loader"),
    ...(sidecars.length > 0 && {
      LD_PRELOAD: companionPath("pager"),
      FLASHBUN_SIDECARS: folder,
      FLASHBUN_PAGER_LOG: join(folder, "pager"),
    }),
  };
}

async function checkLoading(pair: Pair): Promise<Check> {
  const name = "dlopen";
  const original = realpathSync(pair.original);
  const command = [process.execPath, loadProgram, original];
  const environment = { BUN_BE_BUN: "1" };
  const shrunk = await runWith(command, [pair], environment);
  if (shrunk.end === 0 && shrunk.loaded === 1)
    return checked(name, `all symbols resolve, constructors run${pagedBack(shrunk)}`, []);
  const whole = await runWith(command, [], environment);
  if (whole.end === shrunk.end && whole.end !== 0) {
    const detail = `the original does not load here either: ${endOf(whole)}`;
    return { name, detail, verdict: "not checked", problems: [] };
  }
  const problem = shrunk.end === 0 ? "the loader took another file for it" : endOf(shrunk);
  return checked(name, "", [problem]);
}

function endOf({ end, stderr }: Outcome): string {
  if (typeof end === "string") return `it died from ${end}`;
  const last = stderr.trim().split("\n").at(-1);
  return `it ended with ${end}${last === "" ? "" : `: ${last}`}`;
}

function pagedBack({ paged }: Outcome): string {
  return paged === 0 ? "" : `, ${counted(paged, "run")} of host code came back`;
}

/** readelf may not warn of anything that it did not warn of before. */
async function checkReadelf({ original, shrunk }: Pair): Promise<Check> {
  const name = "readelf";
  const readelf = Bun.which("readelf");
  if (readelf === null)
    return { name, detail: "there is none here", verdict: "not checked", problems: [] };
  const warnings = async (file: string) => {
    const command = [readelf, "--wide", "-hlSdnr", "--dyn-syms", file];
    const child = Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    const said = await new Response(child.stderr).text();
    const lines = said.split("\n").filter((line) => line !== "");
    if ((await child.exited) !== 0) lines.push(`it exits with ${child.exitCode}`);
    return lines.map((line) => line.replaceAll(file, "it"));
  };
  const [before, after] = [await warnings(original), await warnings(shrunk)];
  return checked(
    name,
    "no new warning",
    after.filter((line) => !before.includes(line)),
  );
}

/**
 * Runs a command with the originals and with shrunk libraries, loading device code late and early.
 */
async function checkRuns(pairs: readonly Pair[], command: string): Promise<Check[]> {
  const shell = ["sh", "-c", command];
  const modes = ["LAZY", "EAGER"] as const;
  const outcomes: Outcome[][] = [];
  for (const mode of modes) {
    const environment = { CUDA_MODULE_LOADING: mode };
    const original = await runWith(shell, [], environment);
    outcomes.push([original, await runWith(shell, pairs, environment)]);
  }
  const [lazily] = outcomes[0];
  return modes.map((mode, at) => {
    const [original, shrunk] = outcomes[at];
    const name = `run, ${mode}`;
    const unequal = differences(lazily, original);
    if (unequal.length > 0) {
      const detail = `two runs with the originals differ: ${unequal.join("; ")}`;
      return { name, detail, verdict: "not checked", problems: [] };
    }
    if (original.end !== 0) return checked(name, "", [`with the originals ${endOf(original)}`]);
    const none = shrunk.loaded === 0 ? ["it loads none of the libraries"] : [];
    const detail =
      `${shrunk.loaded} of ${pairs.length} libraries loaded, ` +
      `${shrunk.stdout.length} bytes of output compared${pagedBack(shrunk)}`;
    return checked(name, detail, [...differences(original, shrunk), ...none]);
  });
}

function differences(a: Outcome, b: Outcome): string[] {
  const ends = a.end === b.end ? [] : [`${endOf(b)}, not with ${a.end}`];
  if (Buffer.compare(a.stdout, b.stdout) === 0) return ends;
  const at = a.stdout.findIndex((byte, index) => byte !== b.stdout[index]);
  return [...ends, `its output differs from byte ${at < 0 ? a.stdout.length : at} on`];
}
