import { readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { basename, join } from "node:path";

/** Whether a path may be a repository's name on the hub: its owner's, and its own. */
export function isHubName(path: string): boolean {
  return /^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(path);
}

/**
 * The folder of a model `org/name` in the cache of Hugging Face's programs, where they have fetched
 * it: its snapshot of `main`. Undefined where there is none.
 */
export function hubFolder(name: string): string | undefined {
  const at = join(hubCache(), `models--${name.replace("/", "--")}`);
  try {
    const commit = readFileSync(join(at, "refs", "main"), "utf8").trim();
    const folder = join(at, "snapshots", commit);
    return statSync(folder).isDirectory() ? folder : undefined;
  } catch {
    return undefined;
  }
}

/** What the model at a path is called: a snapshot in the hub's cache by its repository's name. */
export function modelName(path: string): string {
  const [, name] = /models--[^/]+--([^/]+)\/snapshots\/[^/]+$/.exec(path) ?? [];
  return name ?? basename(path);
}

/** Where those programs keep what they fetch, by the same variables. */
function hubCache(): string {
  const { HF_HUB_CACHE: own, HF_HOME: home, XDG_CACHE_HOME: cache } = process.env;
  return own || join(home || join(cache || join(homedir(), ".cache"), "huggingface"), "hub");
}
