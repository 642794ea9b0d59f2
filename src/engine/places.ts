import { existsSync } from "node:fs";
import { hubFolder, isHubName } from "../weights/hub.ts";

/** Whether a path is there, or is `org/name` of a model in the hub's cache on this machine. */
export function isModelHere(path: string): boolean {
  return existsSync(path) || (isHubName(path) && hubFolder(path) !== undefined);
}

/** What to do about a model that is not there: a sentence. */
export function modelFix(path: string): string {
  return `check the path, or hf download ${isHubName(path) ? path : "org/name"}.`;
}
