/**
 * Runs folders of cases as their READMEs say: small programs that assert something about flashbun
 * and end with 0 if it holds. A case is a file that a row of a README's table or a line such as
 * "bun check.ts" names. Each folder is copied below .cases/, which git ignores, so that `flashbun`
 * is this clone.
 *
 * A column "Runs on" says where: `cuda:0` is the emulated GPU, "both" that and the CPU, a word that
 * is no device a program which the case needs. Without such a column every case runs on the CPU,
 * and also on the emulated GPU where its row names `cuda:0`.
 *
 * Usage: bun run cases FOLDER...
 */
import { cpSync, existsSync, globSync, readFileSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { argumentsOf } from "./arguments.ts";
import { prepareTests, setup } from "./setup.ts";
import { root } from "./toolchain.ts";

/** A case on one device. */
interface Case {
  /** Below the folder. */
  path: string;
  on: "CPU" | "GPU";
  /** Programs without which it cannot run. */
  needs: string[];
}

type Outcome = "ok" | "FAIL" | "skipped";

const secondsMax = 300;
const noPrograms = /^(files|both|CPU|cuda:0)$/i;

/** The cases of a folder, in the order of its READMEs. */
function casesIn(folder: string): Case[] {
  return globSync("**/README.md", { cwd: folder }).flatMap((readme) => {
    const below = join(folder, dirname(readme));
    const files = globSync("**/*.ts", { cwd: below });
    let head: string[] = [];
    const named = new Map<string, string[]>();
    for (const line of readFileSync(join(folder, readme), "utf8").split("\n")) {
      const cells = line.split("|").map((cell) => cell.trim().replaceAll("`", ""));
      if (!line.startsWith("|")) head = [];
      else if (head.length === 0) head = cells;
      const [, name] = line.startsWith("|") ? cells : (/\bbun ([\w./-]+\.ts)\b/.exec(line) ?? []);
      const path = files.find((file) => file === name || file.endsWith(`/${name}`));
      if (path !== undefined && !named.has(path))
        named.set(path, placesOf(line, cells[head.indexOf("Runs on")]));
    }
    return [...named].flatMap(([path, words]) => {
      const needs = words.filter((word) => !noPrograms.test(word));
      const both = words.includes("both");
      const gpu = both || words.includes("cuda:0");
      const cpu = both || !gpu || words.includes("CPU");
      const devices = [...(cpu ? (["CPU"] as const) : []), ...(gpu ? (["GPU"] as const) : [])];
      return devices.map((on) => ({ path: join(dirname(readme), path), on, needs }));
    });
  });
}

/** The words of a case's place, from its row. */
function placesOf(row: string, runsOn: string | undefined): string[] {
  if (runsOn !== undefined) return runsOn.split(/[,\s]+/).filter(Boolean);
  return row.startsWith("|") && row.includes("cuda:0") ? ["both"] : ["CPU"];
}

/** Runs a case of a copied folder; says how it went and why. */
async function runCase(folder: string, { path, on, needs }: Case): Promise<[Outcome, string]> {
  const missing = needs.filter((program) => Bun.which(program) === null);
  if (missing.length > 0) return ["skipped", `needs ${missing.join(" and ")} on the PATH`];
  const gpu = { FLASHBUN_LIBCUDA: join(root, "zig-out/lib/libcuda-emulated.so"), DEVICE: "cuda:0" };
  const child = Bun.spawn([process.execPath, basename(path), ...(on === "GPU" ? ["cuda:0"] : [])], {
    cwd: join(folder, dirname(path)),
    env: { ...process.env, FLASHBUN_ROOT: root, ...(on === "GPU" ? gpu : {}) },
    stdout: "pipe",
    stderr: "pipe",
    timeout: secondsMax * 1000,
    killSignal: "SIGKILL",
  });
  const texts = [new Response(child.stdout).text(), new Response(child.stderr).text()];
  const said = (await Promise.all(texts)).join("").trimEnd();
  const code = await child.exited;
  if (child.signalCode === "SIGKILL") return ["FAIL", `${said}\nno end after ${secondsMax} s`];
  if (code !== 0) return ["FAIL", `${said}\nexit code ${child.signalCode ?? code}`];
  const skipped = /^skipped:? *(.*)$/m.exec(said);
  return skipped === null ? ["ok", ""] : ["skipped", skipped[1]];
}

/** Runs all cases of the folders, a line or more each; returns how many went which way. */
export async function runFolders(
  folders: readonly string[],
  print: (text: string) => void,
): Promise<Record<Outcome, number>> {
  const counts = { ok: 0, FAIL: 0, skipped: 0 };
  const say = (outcome: Outcome, name: string, why: string) => {
    counts[outcome]++;
    const reason = why.trim().replaceAll("\n", "\n        ");
    print(`${outcome.padEnd(7)} ${name}${reason && `: ${reason}`}\n`);
  };
  for (const from of folders) {
    const name = basename(from);
    const folder = join(root, ".cases", name);
    rmSync(folder, { recursive: true, force: true });
    cpSync(from, folder, { recursive: true });
    const cases = casesIn(folder);
    if (cases.length === 0) say("FAIL", name, "no README in it names a case");
    for (const each of cases) {
      const [outcome, why] = await runCase(folder, each);
      const place = each.on === "GPU" ? " on the emulated GPU" : "";
      say(outcome, `${join(name, each.path)}${place}`, why);
    }
  }
  return counts;
}

if (import.meta.main) {
  const given = argumentsOf("bun run cases FOLDER...", (words) => {
    return words.length > 0 && !words.some((word) => word.startsWith("-"));
  });
  const folders = given.map((folder) => resolve(folder));
  const wrong = folders.find((folder) => !existsSync(folder) || !statSync(folder).isDirectory());
  if (wrong !== undefined) {
    process.stderr.write(`flashbun: ${wrong} is no folder. Fix: bun run cases FOLDER...\n`);
    process.exit(2);
  }
  await setup();
  await prepareTests();
  const print = (text: string) => void process.stdout.write(text);
  const { ok, FAIL, skipped } = await runFolders(folders, print);
  process.stdout.write(`${ok} ok, ${FAIL} failed, ${skipped} skipped\n`);
  process.exitCode = FAIL > 0 ? 1 : 0;
}
