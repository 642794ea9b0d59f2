import { statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { DeviceFacts } from "../../attention/families/family.ts";
import { kernelImages } from "../../attention/families/resolve.ts";
import {
  type AttentionOptions,
  type ResolvedOptions,
  resolveOptions,
} from "../../attention/options.ts";
import { Device } from "../../device/device.ts";
import { openDriver } from "../../device/open.ts";
import { jitTarget, operatorImages } from "../../device/operators.ts";
import { DriverError, FlashbunError, InputError, OptionError, OutputError } from "../../errors.ts";
import { architectureFacts } from "../../jit/architectures.ts";
import { ImageCache } from "../../jit/cache.ts";
import type { Image } from "../../jit/image.ts";
import type { Target } from "../../jit/target.ts";
import { counted } from "../../shown.ts";

/** For what `jit warm` compiles. */
interface Goal {
  readonly target: Target;
  readonly facts: DeviceFacts;
}

/** One attention of a file. */
interface Wish {
  readonly name: string;
  readonly options: ResolvedOptions;
}

const patienceMs = 1000;
const linePeriodMs = 2000;

/**
 * Compiles all operators and the kernels of every attention that the files ask for, so that no
 * later run has to. Returns the exit code: 1 when some did not compile.
 */
export async function jitWarm(
  files: readonly string[],
  options: { arch?: string },
): Promise<number> {
  const cache = new ImageCache();
  const failure = cache.writeFailure();
  if (failure !== undefined)
    throw new OutputError(
      cache.directory,
      `kernels cannot be kept there (${failure})`,
      "make it writable for you alone, or name another folder by FLASHBUN_CACHE.",
    );
  const attentions = (await Promise.all(files.map(wishesOf))).flat();
  const { facts, target } = await goalOf(options.arch);
  const wishes = [
    { name: "operators", compile: () => operatorImages(target) },
    ...attentions.map(({ name, options: wish }) => ({
      name,
      compile: () => kernelImages(facts, wish, target),
    })),
  ];
  const progress = new Progress(wishes.length, target.architectures[0]);
  const done = wishes.map(async ({ name, compile }) => {
    const start = performance.now();
    const images = await compile();
    progress.step();
    process.stdout.write(`${name}: ${summaryOf(images, performance.now() - start)}\n`);
  });
  const results = await Promise.allSettled(done);
  progress.end();
  let code = 0;
  for (const [i, result] of results.entries()) {
    if (result.status === "fulfilled") continue;
    if (!(result.reason instanceof FlashbunError)) throw result.reason;
    process.stderr.write(`flashbun: ${wishes[i].name}: ${result.reason.message}\n`);
    code = 1;
  }
  return code;
}

/** The default export of a module: options of an attention, or a list of them. */
async function wishesOf(file: string): Promise<Wish[]> {
  const path = resolve(file);
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) {
    throw new OptionError("FILE", file, "a TypeScript or JavaScript file", "name one that exists.");
  }
  let exported: unknown;
  try {
    ({ default: exported } = (await import(pathToFileURL(path).href)) as { default?: unknown });
  } catch (error) {
    if (error instanceof FlashbunError) throw error;
    const { message } = error as Error;
    throw new InputError(
      file,
      undefined,
      `it cannot be loaded: ${message}`,
      "run it by bun first.",
    );
  }
  const list = Array.isArray(exported) ? (exported as unknown[]) : [exported];
  if (list.length === 0 || !list.every((each) => typeof each === "object" && each !== null)) {
    const fix = 'export default { queryHeads: 32, kvHeads: 8, headDim: 128, dtype: "bf16" }.';
    const allowed = "options of an attention, or a list of them";
    throw new OptionError(`the default export of ${file}`, exported, allowed, fix);
  }
  return (list as AttentionOptions[]).map((options, i) => {
    const variant = options.variant === undefined ? "" : ` (${options.variant.name})`;
    const index = list.length === 1 ? "" : `[${i}]`;
    return {
      name: `${basename(file)}${index}${variant}`,
      options: resolved(options, file + index),
    };
  });
}

/** The options after a check, which says whose they are. */
function resolved(options: AttentionOptions, place: string): ResolvedOptions {
  try {
    return resolveOptions(options);
  } catch (error) {
    if (error instanceof OptionError) error.message = `${place}: ${error.message}`;
    throw error;
  }
}

/** The architecture that was named, else that of the first GPU. */
async function goalOf(arch: string | undefined): Promise<Goal> {
  if (arch !== undefined) {
    return { facts: architectureFacts(arch), target: { architectures: [arch] } };
  }
  try {
    openDriver();
  } catch (error) {
    if (!(error instanceof DriverError)) throw error;
    throw new OptionError(
      "arch",
      undefined,
      "given where there is no GPU",
      "add --arch sm_90a, say.",
    );
  }
  await using device = await Device.open("cuda:0");
  return { facts: device.properties, target: jitTarget(device) };
}

function summaryOf(images: readonly Image[], ms: number): string {
  const counts = (["compiled", "cached", "embedded"] as const).flatMap((origin) => {
    const count = images.filter((image) => image.origin === origin).length;
    return count === 0 ? [] : [`${count} ${origin}`];
  });
  return `${counted(images.length, "kernel")}, ${counts.join(", ")} (${(ms / 1000).toFixed(2)} s)`;
}

/** A line once compiling takes longer than a second: moving on a terminal, new ones in a log. */
class Progress {
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #start = performance.now();
  #done = 0;
  #shown = false;

  constructor(
    readonly total: number,
    readonly architecture: string,
  ) {
    const period = process.stderr.isTTY ? patienceMs : linePeriodMs;
    this.#timer = setInterval(() => this.#show(), period);
  }

  step(): void {
    this.#done++;
    this.#erase();
  }

  end(): void {
    clearInterval(this.#timer);
    this.#erase();
  }

  #show(): void {
    const seconds = ((performance.now() - this.#start) / 1000).toFixed(0);
    const text = `jit: ${this.#done}/${this.total} done for ${this.architecture}, ${seconds} s`;
    process.stderr.write(process.stderr.isTTY ? `\r${text}` : `${text}\n`);
    this.#shown = process.stderr.isTTY === true;
  }

  /** Leaves the terminal's line to whatever is written next. */
  #erase(): void {
    if (this.#shown) process.stderr.write("\r\x1b[K");
    this.#shown = false;
  }
}
