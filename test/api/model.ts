/** A tiny engine and what stands above it, one of each in a process. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Encoder, Engine } from "../../src/engine/index.ts";
import { ApiServer } from "../../src/server/index.ts";
import { writeTinyBert } from "../support/tiny-bert.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { tinyAdapter, writeAdapter } from "../support/tiny-lora.ts";

const shape = { layers: 1, hidden: 16, intermediate: 16, queryHeads: 2, kvHeads: 1, headDim: 8 };

let made: ReturnType<typeof make> | undefined;

/** The same each time. */
export function modelWorld() {
  return (made ??= make());
}

async function make() {
  const path = mkdtempSync(join(tmpdir(), "flashbun-model-"));
  process.on("exit", () => rmSync(path, { recursive: true, force: true }));
  const model = tinyModel(1, { ...shape, context: 64, tied: true });
  writeFolder(path, model);
  const adapter = writeAdapter(join(path, "adapter"), tinyAdapter(1, model, ["q_proj"]));
  const bert = writeTinyBert(join(path, "bert"));
  const encoder = await Encoder.load(bert);
  const engine = await Engine.load(path);
  const server = new ApiServer(engine, { model: "tiny", port: 0 });
  return { path, bert, adapter, encoder, engine, server };
}
