import { drive } from "../../src/cli/bench/drive.ts";
import { EngineTarget } from "../../src/cli/bench/engine-target.ts";
import {
  type EngineFigures,
  engineFigures,
  type Figures,
  figuresOf,
} from "../../src/cli/bench/figures.ts";
import { LoopLag } from "../../src/cli/bench/lag.ts";
import { lengthsOf } from "../../src/cli/bench/lengths.ts";
import { afterWarmUp, generatedLoad } from "../../src/cli/bench/load.ts";
import type { Asked, Target } from "../../src/cli/bench/target.ts";
import type { Engine } from "../../src/engine/index.ts";
import type { Row } from "./rows.ts";

/** A row's figures, with how late the event loop's timers were (p99). */
export type Measured = Figures & EngineFigures & { lagMs: number | null };

/** How a row's requests are put. */
export interface Putting {
  readonly vocabulary: number;
  /** As few requests as say something. */
  readonly quick?: boolean;
  /** Called between the requests that warm it up and the others. */
  readonly begin?: () => void;
}

const warmUpMost = 64;

/** Puts a row's requests to a target after others that warm it up. */
export async function put(target: Target, row: Row, putting: Putting): Promise<Asked[]> {
  const { vocabulary, quick = false, begin } = putting;
  const { clients, rate, samples = 1 } = row;
  // Fewer than there are clients would measure another load.
  const few = Math.max(clients ?? 1, Math.ceil(row.requests / 8));
  const requests = quick ? few : row.requests;
  const warmUp = Math.min(clients ?? 16, 2 * requests, warmUpMost);
  const load = generatedLoad({
    requests: requests + warmUp,
    prompt: lengthsOf("prompt", "prompt", row.prompt),
    output: lengthsOf("output", "output", row.output),
    sharedTokens: 0,
    rate,
    seed: 1,
    vocabulary,
  });
  const driving = { samples, temperature: 0, signal: new AbortController().signal };
  const { warming, measured } = afterWarmUp(load, warmUp);
  const short = warming.map((request) => ({ ...request, outputTokens: 8 }));
  await drive(target, short, { ...driving, clients: clients ?? 16 });
  if (row.again) await drive(target, measured, { ...driving, clients });
  begin?.();
  return await drive(target, measured, { ...driving, clients });
}

/** A row on an engine. */
export async function measure(engine: Engine, row: Row, quick = false): Promise<Measured> {
  let before = engine.stats();
  using lags = new DisposableStack();
  let lag: LoopLag | undefined;
  const begin = () => {
    before = engine.stats();
    lag = lags.use(new LoopLag());
  };
  const { vocabulary } = engine.model.shape;
  const asked = await put(new EngineTarget(engine), row, { vocabulary, quick, begin });
  const ofEngine = engineFigures(before, engine.stats());
  return { ...figuresOf(asked), ...ofEngine, lagMs: lag!.figures.p99 };
}
