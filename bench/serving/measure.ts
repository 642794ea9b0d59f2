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
export type Measured = Figures &
  EngineFigures & {
    readonly lagMs: number | null;
    /** How long the longest of those waited that had no token when the row was ended. */
    readonly waitedMs: number;
  };

/** How a row's requests are put. */
export interface Putting {
  readonly vocabulary: number;
  /** As few requests as say something. */
  readonly quick?: boolean;
  /** Called between the requests that warm it up and the others. */
  readonly begin?: () => void;
  /** The row is ended after so long, whoever still runs; default: when all are answered. */
  readonly seconds?: number | undefined;
}

const warmUpMost = 64;

/** Loads that were put by this process: no prompt of one is cached for the next. */
let loads = 0;

/** Puts a row's requests to a target after others that warm it up. */
export async function put(target: Target, row: Row, putting: Putting): Promise<Asked[]> {
  const { vocabulary, quick = false, begin, seconds } = putting;
  const { clients, rate, samples = 1 } = row;
  // Fewer than there are clients would measure another load; all at once they are fewer clients.
  const atLeast = clients === row.requests ? row.requests / 4 : (clients ?? 1);
  const few = Math.ceil(Math.max(atLeast, row.requests / 8));
  const requests = quick ? few : row.requests;
  const atOnce = clients ?? Math.min(16, Math.max(2, Math.ceil(rate!)));
  const warmUp = Math.min(atOnce, 2 * requests, warmUpMost);
  const drawn = generatedLoad({
    requests: requests + warmUp,
    prompt: lengthsOf("prompt", "prompt", row.prompt),
    output: lengthsOf("output", "output", row.output),
    sharedTokens: 0,
    rate,
    seed: 1,
    vocabulary,
  });
  const shift = loads++;
  const load = drawn.map(({ prompt, ...rest }) => {
    return { ...rest, prompt: prompt.map((token) => (token + shift) % vocabulary) };
  });
  const driving = { samples, temperature: 0, signal: new AbortController().signal };
  const ended = new AbortController();
  const { warming, measured } = afterWarmUp(load, warmUp);
  const short = warming.map((request) => ({ ...request, outputTokens: 8 }));
  await drive(target, short, { ...driving, clients: atOnce });
  if (row.again) await drive(target, measured, { ...driving, clients });
  begin?.();
  const timer = seconds && setTimeout(() => ended.abort(), 1e3 * seconds);
  const asked = await drive(target, measured, { ...driving, signal: ended.signal, clients });
  clearTimeout(timer);
  return asked;
}

/** A row on an engine, of which `seconds` may be all that is wanted. */
export async function measure(
  engine: Engine,
  row: Row,
  quick = false,
  seconds?: number,
): Promise<Measured> {
  let before = engine.stats();
  using lags = new DisposableStack();
  let lag: LoopLag | undefined;
  const begin = () => {
    before = engine.stats();
    lag = lags.use(new LoopLag());
  };
  const { vocabulary } = engine.model.shape;
  const asked = await put(new EngineTarget(engine), row, { vocabulary, quick, begin, seconds });
  const ofEngine = engineFigures(before, engine.stats());
  const waits = asked
    .filter(({ answersMs }) => answersMs.every(({ length }) => length === 0))
    .map(({ askedMs }) => 1e3 * (seconds ?? 0) - askedMs);
  const waitedMs = Math.max(0, ...waits);
  return { ...figuresOf(asked), ...ofEngine, lagMs: lag!.figures.p99, waitedMs };
}
