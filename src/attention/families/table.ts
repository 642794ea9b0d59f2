import { cpu } from "./cpu.ts";
import type { KernelFamily } from "./family.ts";
import { hopper } from "./hopper.ts";
import { mla } from "./mla.ts";
import { tiled } from "./tiled.ts";

/** The families of each kind of device, preferred ones first; the last says why there is none. */
export const families: Readonly<Record<"cpu" | "cuda", readonly KernelFamily[]>> = {
  cuda: [mla, hopper, tiled],
  cpu: [cpu],
};
