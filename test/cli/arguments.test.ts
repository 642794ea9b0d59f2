import { describe, expect, test } from "bun:test";
import { version } from "../../package.json";
import { countOrAll, device, integer, oneOf, positive } from "../../src/cli/parse.ts";
import { flashbun } from "./run.ts";

describe("help and version", () => {
  test("--version", async () => {
    expect(await flashbun("--version")).toEqual({ code: 0, out: `${version}\n`, err: "" });
  });

  test("--help names the commands, a command's help its options", async () => {
    const general = await flashbun("--help");
    expect(general.code).toBe(0);
    expect(general.out).toMatch(/replay[\s\S]*doctor/);
    const replay = await flashbun("replay", "--help");
    expect(replay.code).toBe(0);
    for (const option of ["--trace", "--requests", "--scale-lengths", "--speed", "--shape"])
      expect(replay.out).toContain(option);
    for (const option of ["--layers", "--pages", "--page-size", "--token-budget", "--max-batch"])
      expect(replay.out).toContain(option);
    for (const option of ["--dtype", "--seed", "--verify", "--threads", "--json", "--report"])
      expect(replay.out).toContain(option);
    for (const option of [
      "--device",
      "--graph",
      "--trace-events",
      "--lenient",
      "--rate",
      "--quiet",
    ])
      expect(replay.out).toContain(option);
  });
});

describe("wrong arguments: exit code 2 and one sentence", () => {
  const wrong: [string[], RegExp][] = [
    [["replay", "--request", "3"], /unknown option '--request' \(Did you mean --requests\?\)/],
    [["replay", "--requests"], /argument missing/],
    [["replay", "--requests", "0"], /--requests must be .* \(got "0"\)\. Fix: /],
    [["replay", "--requests", "many"], /--requests must be .* \(got "many"\)\. Fix: /],
    [["replay", "--scale-lengths", "-1"], /--scale-lengths must be .* \(got "-1"\)/],
    [["replay", "--scale-lengths", "NaN"], /--scale-lengths must be .* \(got "NaN"\)/],
    [["replay", "--speed", "0"], /--speed must be .* \(got "0"\)/],
    [["replay", "--pages", "1.5"], /--pages must be .* \(got "1.5"\)/],
    [["replay", "--page-size", "99999"], /--page-size must be .* from 1 to 4096/],
    [["replay", "--token-budget", ""], /--token-budget must be .* \(got ""\)/],
    [["replay", "--dtype", "f64"], /--dtype must be one of f32, f16, bf16/],
    [["replay", "--device", "gpu"], /--device must be cpu, auto or cuda:0 \(got "gpu"\)/],
    [["replay", "--graph", "yes"], /--graph must be one of auto, on, off \(got "yes"\)/],
    [["replay", "--shape", "gpt-9"], /--shape must be one of tiny, .* \(got "gpt-9"\)/],
    [["replay", "--shape", "tiny", "--pages", "1", "-q"], /--pages must be at least .* Fix: /],
    [["replay", "--json", "/absent/summary.json"], /--json must be a file that can be written/],
    [["replay", "--report", "/"], /--report must be a file that can be written/],
    [
      ["replay", "--shape", "tiny", "--layers", "3"],
      /--layers must be .* from 1 to 2 \(got 3\)\. Fix: give --layers a whole number/,
    ],
    [
      ["replay", "--shape", "tiny", "--pages", "999999999", "-q"],
      /--pages must be an integer from 1 to 134217727 \(got 999999999\)\. Fix: give --pages/,
    ],
    [
      ["replay", "--trace", "a", "--rate", "2"],
      /'--rate <f>' cannot be used with .*'--trace <file>'/,
    ],
    [["replay", "trace.csv"], /too many arguments .*: trace\.csv\. Fix: /],
    [["rerun"], /unknown command 'rerun'\. Fix: --help lists the commands\./],
    [["serve"], /missing required argument 'model'\. Fix: add it; --help /],
    [["debloat", "restore", "x"], /required option '--sidecar <path>' not specified\. Fix: /],
    [["chat", "x", "--temperature", "-1"], /--temperature must be a number .* \(got "-1"\)/],
    [["chat", "x", "--branches", "3,x"], /--branches must be a list .* \(got "3,x"\)/],
    [["generate", "x", ""], /prompt must be a text that is not empty \(got ""\)\. Fix: /],
    [["demo", "--random-weights"], /unknown option '--random-weights'/],
    [["debloat", "trace", "-o", "x", "ls", "--all"], /Fix: put -- before the command: .* trace /],
    [["debloat", "tree", "src", "-o", "/absent"], /--arch must be .* Fix: give --arch, --profile/],
    [["debloat", "profile", "show", "/absent"], /<profile> must be a file that can be read/],
    [["jit", "warm", "package.json"], /^flashbun: package\.json: queryHeads must be /],
    [["bench"], /model must be .*, unless --url is given \(got nothing\)\. Fix: flashbun bench /],
  ];
  test.each(wrong)("%j", async (args, sentence) => {
    const { code, out, err } = await flashbun(...args);
    expect(code).toBe(2);
    expect(out).toBe("");
    expect(err).toMatch(sentence);
    expect(err).toStartWith("flashbun: ");
    expect(err).toMatch(/ Fix: .+\.\n$/);
    expect(err.trimEnd().split("\n").length).toBe(1);
  });

  test("no command shows the help", async () => {
    const { code, err } = await flashbun();
    expect(code).toBe(2);
    expect(err).toContain("Usage: flashbun");
  });
});

test("parsers take what they say", () => {
  expect(integer("--n", 0)("0")).toBe(0);
  expect(integer("--n", 1, 8)("8")).toBe(8);
  for (const text of ["9", "-1", "1e2", "0x4", "1 ", "", "2147483648"])
    expect(() => integer("--n", 0, 8)(text)).toThrow("--n must be");
  expect(positive("--f")("inf")).toBe(Infinity);
  expect(positive("--f")("2.5e-1")).toBe(0.25);
  for (const text of ["0", "-2", "1e999", "1.2.3", "nan", "two"])
    expect(() => positive("--f")(text)).toThrow("--f must be");
  expect(() => positive("--f", 10)("inf")).toThrow("--f must be");
  expect(countOrAll("--n")("all")).toBe(Infinity);
  expect(countOrAll("--n")("30")).toBe(30);
  expect(oneOf("--w", ["a", "b"])("b")).toBe("b");
  for (const name of ["cpu", "auto", "cuda:0", "cuda:12"] as const) expect(device(name)).toBe(name);
  for (const name of ["", "cuda", "cuda:", "cuda:x", "CPU"])
    expect(() => device(name)).toThrow("--device must be");
  expect(() => oneOf("--w", ["a", "b"])("c")).toThrow("--w must be one of a, b");
});
