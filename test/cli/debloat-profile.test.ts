import { beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { emptyProfile, type Profile } from "../../src/debloat/profile/profile.ts";
import { formatProfile, parseProfile } from "../../src/debloat/profile/text.ts";
import { temporaryFolder } from "../debloat/support/make-library.ts";
import { flashbun } from "./run.ts";

const folder = temporaryFolder("profiles");
const [first, second, merged] = ["first", "second", "merged"].map((name) =>
  join(folder, `${name}.json`),
) as [string, string, string];

function profileOf(...kernels: string[]): Profile {
  const profile = emptyProfile();
  profile.runs.push({
    command: ["python3", "train.py"],
    date: "2026-01-02T03:04:05.000Z",
    host: "pages",
    gpu: "sm_90",
    driver: "580.1.2",
    cuda: "13.0",
  });
  profile.libraries["ab12"] = {
    path: "/somewhere/libx.so",
    bytes: 9,
    kernels,
    cubins: [],
    globals: [],
    pages: [[1, 2]],
    functions: [[64, 5_000_000]],
  };
  return profile;
}

beforeAll(() => {
  writeFileSync(first, formatProfile(profileOf("a", "b")));
  writeFileSync(second, formatProfile(profileOf("b", "c")));
});

describe("flashbun debloat profile", () => {
  test("merge writes what both hold", async () => {
    const said = await flashbun("debloat", "profile", "merge", first, second, "-o", merged);
    expect(said).toEqual({ code: 0, out: "", err: "" });
    const profile = parseProfile(readFileSync(merged, "utf8"), merged);
    expect(profile.libraries["ab12"].kernels).toEqual(["a", "b", "c"]);
    expect(profile.runs).toHaveLength(2);
  });

  test("diff prints what each lacks and says it by its exit code", async () => {
    const said = await flashbun("debloat", "profile", "diff", "--names", first, second);
    expect(said.code).toBe(1);
    expect(said.out).toMatch(/only in .*first.json:\n.*kernels.*\n  libx.so +1 .*\n  a\nonly in/);
    expect(said.out).toMatch(/only in .*second.json:\n.*\n  libx.so +1 .*\n  c\n$/);
    const same = await flashbun("debloat", "profile", "diff", first, first);
    expect(same).toEqual({ code: 0, out: "both hold the same\n", err: "" });
  });

  test("show prints runs and figures", async () => {
    const { code, out } = await flashbun("debloat", "profile", "show", first);
    expect(code).toBe(0);
    expect(out).toContain("sm_90, driver 580.1.2, CUDA 13.0, host code: pages");
    expect(out).toContain("  python3 train.py\n");
    expect(out).toMatch(/libx.so +2 +0 +0 +0.01 MB +1 \(5.00 MB\) +ab12/);
    const json = await flashbun("debloat", "profile", "show", "--json", first);
    expect(JSON.parse(json.out).libraries).toMatchObject([{ id: "ab12", kernels: 2 }]);
  });

  test("a damaged profile is refused by name and nothing is written", async () => {
    const damaged = join(folder, "damaged.json");
    writeFileSync(damaged, "{");
    const out = join(folder, "none.json");
    const said = await flashbun("debloat", "profile", "merge", first, damaged, "-o", out);
    expect(said.code).toBe(1);
    expect(said.err).toContain("damaged.json: it is not JSON");
    expect(existsSync(out)).toBe(false);
  });
});

describe("flashbun debloat trace", () => {
  test("writes a profile, prints what the tracer cost, and ends as the command does", async () => {
    const out = join(folder, "traced.json");
    const command = ["debloat", "trace", "-o", out, "--", "/bin/sh", "-c", "echo ran; exit 6"];
    const said = await flashbun(...command);
    expect(said).toMatchObject({ code: 6, out: "ran\n" });
    expect(said.err).toMatch(/1 process in [\d.]+ s; the tracer took [\d.]+ ms \([\d.]+ %\)/);
    const { libraries, runs } = parseProfile(readFileSync(out, "utf8"), out);
    expect(runs).toMatchObject([{ command: command.slice(5), host: "pages", gpu: null }]);
    const libc = Object.values(libraries).find(({ path }) => path.includes("libc.so"))!;
    expect(libc.pages.length).toBeGreaterThan(0);

    const again = await flashbun("debloat", "trace", "-q", "--append", ...command.slice(2));
    expect(again.err).toBe("");
    expect(parseProfile(readFileSync(out, "utf8"), out).runs).toHaveLength(2);
  });

  test("what it cannot do it refuses before the command runs", async () => {
    const ran = ["--", "/bin/sh", "-c", "echo ran"];
    const trace = (...options: string[]) => flashbun("debloat", "trace", ...options, ...ran);
    const damaged = join(folder, "damaged.json");
    const said = await trace("--append", "-o", damaged);
    expect(said).toMatchObject({ code: 1, out: "" });
    expect(await trace("-o", "/nowhere/p.json")).toMatchObject({ code: 2, out: "" });
    expect(await trace("-o", damaged, "--cupti", "/nowhere")).toMatchObject({ code: 2, out: "" });
    expect(await trace("-o", damaged, "--host", "all")).toMatchObject({ code: 2, out: "" });
    const nothing = await flashbun("debloat", "trace", "-o", damaged, "--", "/nowhere/program");
    expect(nothing).toMatchObject({ code: 2, out: "" });
    expect(nothing.err).toContain("ENOENT");
  });
});
