import type { StepRecord } from "../replay/types.ts";

/** The progress of a replay, on a terminal or in a log. */
export interface Progress {
  step(step: StepRecord, done: number, total: number): void;
  end(): void;
}

/** Milliseconds between two updates: a bar moves, a log grows slowly. */
const barPeriod = 100;
const linePeriod = 2000;

/** Tokens per second since the last reading. */
class Rate {
  #tokens = 0;
  #readAt = performance.now();

  add(step: StepRecord): void {
    this.#tokens += step.decodeTokens + step.prefillTokens;
  }

  /** NaN within `period` milliseconds of the last reading. */
  read(period: number): number {
    const now = performance.now();
    const elapsed = now - this.#readAt;
    if (elapsed < period) return NaN;
    const rate = (this.#tokens / elapsed) * 1e3;
    this.#tokens = 0;
    this.#readAt = now;
    return rate;
  }
}

/**
 * Progress of `total` requests on a device: a bar when `stream` is a terminal, plain lines
 * elsewhere.
 */
export async function openProgress(
  stream: NodeJS.WriteStream,
  total: number,
  pages: number,
  device: string,
): Promise<Progress> {
  return stream.isTTY ? openBar(stream, total, pages, device) : openLines(stream, pages, device);
}

async function openBar(
  stream: NodeJS.WriteStream,
  total: number,
  pages: number,
  device: string,
): Promise<Progress> {
  const { Presets, SingleBar } = await import("cli-progress");
  const bar = new SingleBar(
    {
      format:
        "{bar} {value}/{total} requests | {rate} | batch {batch} | pages {pages} % " +
        `| ${device}`,
      stream,
      hideCursor: true,
      // The command handles Ctrl-C itself, to end with a summary.
      gracefulExit: false,
      barsize: 24,
    },
    Presets.shades_classic,
  );
  bar.start(total, 0, { rate: "measuring memory", batch: 0, pages: 0 });
  const rate = new Rate();
  let last: [number, object] = [0, {}];
  return {
    step(step, done) {
      rate.add(step);
      // The last step shows one even if all of them took less than a period.
      const perSecond = rate.read(done < total ? barPeriod : 0);
      if (Number.isNaN(perSecond)) return;
      const shown = { rate: `${Math.round(perSecond)} tokens/s` };
      const use = Math.round((100 * step.pagesUsed) / pages);
      last = [done, { ...shown, batch: step.runningRequests, pages: use }];
      bar.update(...last);
    },
    end() {
      bar.update(...last);
      bar.stop();
    },
  };
}

function openLines(stream: NodeJS.WriteStream, pages: number, device: string): Progress {
  const rate = new Rate();
  return {
    step(step, done, total) {
      rate.add(step);
      const perSecond = rate.read(linePeriod);
      if (Number.isNaN(perSecond)) return;
      const use = Math.round((100 * step.pagesUsed) / pages);
      stream.write(
        `replay: ${done}/${total} requests, ${Math.round(perSecond)} tokens/s, ` +
          `batch ${step.runningRequests}, pages ${use} %, on ${device}\n`,
      );
    },
    end() {},
  };
}
