import { join } from "node:path";
import { CheckpointError } from "./errors.ts";
import { readJson, readTextIfThere } from "./safetensors.ts";

/** How a text's tokens become one vector: their mean, or that of the first or last token. */
export type Pooling = "mean" | "first" | "last";

const poolings: Readonly<Record<string, Pooling>> = {
  pooling_mode_cls_token: "first",
  pooling_mode_mean_tokens: "mean",
  pooling_mode_lasttoken: "last",
};
/** Modules that are known: the model itself, its pooling, and a length of 1. */
const modules = ["Transformer", "Pooling", "Normalize"];

/**
 * What the folder of a sentence-transformers model says of pooling (modules.json and
 * 1_Pooling/config.json); undefined where it says nothing. Errors: CheckpointError for a way that
 * is not known, and for modules that would change the vectors.
 */
export function poolingIn(folder: string): Pooling | undefined {
  const path = join(folder, poolingFolder(folder), "config.json");
  if (readTextIfThere(path) === undefined) return undefined;
  const config = readJson(path);
  const modes = Object.keys(config).filter(
    (field) => field.startsWith("pooling_mode_") && config[field] === true,
  );
  const [pooling] = modes.map((mode) => poolings[mode]);
  if (modes.length === 1 && pooling !== undefined) return pooling;
  const known = Object.keys(poolings).join(", ");
  const what = `it pools by ${modes.join(" and ") || "nothing"}, not by one of ${known}`;
  throw new CheckpointError(path, what, "use a model that pools by one of them.");
}

function poolingFolder(folder: string): string {
  const path = join(folder, "modules.json");
  const text = readTextIfThere(path);
  if (text === undefined) return "1_Pooling";
  const kinds = modulesIn(path, text).map(({ type, path: at }) => {
    return { kind: String(type).split(".").at(-1)!, at };
  });
  const other = kinds.find(({ kind }) => !modules.includes(kind));
  if (other !== undefined) {
    const what = `it has a module ${other.kind}, and ${modules.join(", ")} are known`;
    throw new CheckpointError(path, what, "use a model of these alone.");
  }
  const at = kinds.find(({ kind }) => kind === "Pooling")?.at;
  return typeof at === "string" ? at : "1_Pooling";
}

function modulesIn(path: string, text: string): { type?: unknown; path?: unknown }[] {
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch (cause) {
    const what = `its JSON is damaged (${cause})`;
    throw new CheckpointError(path, what, "fetch it again.", { cause });
  }
  if (Array.isArray(list) && list.every((it) => typeof it === "object" && it !== null)) return list;
  throw new CheckpointError(path, "its JSON is no list of modules", "fetch it again.");
}
