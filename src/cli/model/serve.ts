import { basename } from "node:path";
import { ranksOf } from "../../comm/ranks.ts";
import { Encoder } from "../../engine/index.ts";
import { ApiServer } from "../../server/index.ts";
import { requirePlace } from "../../server/listen.ts";
import { type EngineArguments, onSignals, openEngine } from "./engine.ts";
import { requireEmbeddings, requireGiven } from "./given.ts";

/** Options of `flashbun serve`. */
export interface ServeArguments extends EngineArguments {
  host: string;
  port: number;
  name?: string;
  apiKey?: string;
  maxRequests: number;
  maxTokens?: number;
  maxBodyBytes: number;
  maxSeconds: number;
  /** A folder of an encoder. */
  embeddings?: string;
}

/** Serves until Ctrl-C or SIGTERM, then lets requests end. Returns the exit code. */
export async function serveCommand(model: string, options: ServeArguments): Promise<number> {
  const { host, port, maxRequests, maxTokens, maxBodyBytes, maxSeconds, quiet } = options;
  const apiKey = options.apiKey ?? process.env["FLASHBUN_API_KEY"];
  requireGiven(model, options);
  requireEmbeddings(options.embeddings);
  // Rank 0 of several listens, and before it whoever starts them.
  if ((ranksOf()?.rank ?? 0) === 0)
    requirePlace({ host, port, names: { host: "--host", port: "--port" } });
  await using engine = await openEngine(model, options);
  await using encoder = await encoderOf(options);
  const name = options.name ?? basename(model).replace(/\.gguf$/, "");
  const server = new ApiServer(engine, {
    model: name,
    host,
    port,
    maxRequests,
    maxBodyBytes,
    maxSeconds,
    ...(maxTokens !== undefined && { maxTokens }),
    ...(encoder && { embeddings: { model: basename(options.embeddings!), encoder } }),
    ...(apiKey !== undefined && { apiKey }),
    ...(quiet ? {} : { log: (line: string) => process.stdout.write(`${line}\n`) }),
  });
  process.stderr.write(`flashbun: ${name} at ${server.url}/v1\n`);
  const { promise, resolve } = Promise.withResolvers<void>();
  let asked = 0;
  // A second signal does not wait.
  using _ = onSignals(() => (asked++ === 0 ? resolve() : void server.stop(0)));
  let lost: unknown;
  const losses = [engine.health, ...(encoder ? [encoder.health] : [])].map((each) => each.lost);
  await Promise.race([promise, Promise.race(losses).then((reason) => (lost = reason))]);
  if (lost !== undefined) {
    process.stderr.write(`flashbun: ${(lost as Error).message}\n`);
    await server.stop(0);
    return 1;
  }
  process.stderr.write(
    "flashbun: no new requests; those that run have 30 s to end, or until Ctrl-C again\n",
  );
  await server.stop();
  return 0;
}

async function encoderOf({ embeddings, device }: ServeArguments): Promise<Encoder | undefined> {
  return embeddings === undefined ? undefined : await Encoder.load(embeddings, { device });
}
