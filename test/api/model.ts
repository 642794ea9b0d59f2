/** A tiny engine and what stands above it, one of each in a process. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/index.ts";
import { ApiServer } from "../../src/server/index.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";

const shape = { layers: 1, hidden: 16, intermediate: 16, queryHeads: 2, kvHeads: 1, headDim: 8 };

let made: ReturnType<typeof make> | undefined;

/** The same each time. */
export function modelWorld() {
  return (made ??= make());
}

async function make() {
  const path = mkdtempSync(join(tmpdir(), "flashbun-model-"));
  process.on("exit", () => rmSync(path, { recursive: true, force: true }));
  writeFolder(path, tinyModel(1, { ...shape, context: 64, tied: true }));
  const engine = await Engine.load(path);
  return { path, engine, server: new ApiServer(engine, { model: "tiny", port: 0 }) };
}
