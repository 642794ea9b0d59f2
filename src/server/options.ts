import { Encoder } from "../engine/encoder.ts";
import { Engine } from "../engine/engine.ts";
import { OptionError } from "../errors.ts";
import {
  checkOptions,
  finite,
  integer,
  object,
  type OptionSchemas,
  unchecked,
} from "../options.ts";
import type { EmbeddingModel } from "./embeddings.ts";

/** Where a server listens, and what it allows. */
export interface ServerOptions {
  /**
   * Name that clients ask for, and that answers carry. The engine's adapters have theirs, by which
   * clients ask for them as for models.
   */
  model: string;
  /** Default 127.0.0.1: other machines do not reach it. */
  host?: string;
  /** Default 8000; 0: any that is free. */
  port?: number;
  /** Clients must send it as `Authorization: Bearer KEY`; default: none. */
  apiKey?: string;
  /** Most requests that wait or run; more get 429. Default 256. */
  maxRequests?: number;
  /** Most bytes of a request's body. Default 16 MiB. */
  maxBodyBytes?: number;
  /** Most tokens of an answer; who asks for more gets 400. Default: what the context holds. */
  maxTokens?: number;
  /** Seconds that a request may wait and run; later it gets 504. Default 600. */
  maxSeconds?: number;
  /** Answers `/v1/embeddings`; default: nothing does. It stays the caller's. */
  embeddings?: EmbeddingModel;
  /** Takes a line of JSON for each request. Default: none. */
  log?: (line: string) => void;
}

/** The same with defaults, without what may stay away. */
export type ResolvedServerOptions = Required<Omit<ServerOptions, "apiKey" | "embeddings">>;

/** What a timer takes, and a day is enough. */
const secondsMost = 86_400;
const text = { type: "string", minLength: 1, description: "a text that is not empty" };
const schemas: OptionSchemas = {
  model: text,
  host: text,
  port: integer(0, 65535),
  // An empty one would be the key of whoever sends none.
  apiKey: text,
  maxRequests: integer(1),
  maxBodyBytes: integer(1),
  maxTokens: integer(1),
  maxSeconds: finite(0.001, secondsMost),
  embeddings: object(
    { model: text, encoder: unchecked("an encoder") },
    ["model", "encoder"],
    "an object of a model's name and its encoder",
  ),
  log: unchecked("a function"),
};

/** The options with defaults. Errors: OptionError. */
export function resolveServerOptions(
  engine: Engine,
  options: ServerOptions,
): ResolvedServerOptions {
  if (!(engine instanceof Engine))
    throw new OptionError("engine", engine, "an engine", "pass what Engine.load gave.");
  checkOptions("options", schemas, ["model"], options);
  const {
    model,
    host = "127.0.0.1",
    port = 8000,
    maxRequests = 256,
    maxBodyBytes = 16 << 20,
    maxTokens = engine.model.shape.contextTokens,
    maxSeconds = 600,
    embeddings,
    log = () => {},
  } = options;
  if (typeof log !== "function")
    throw new OptionError("log", log, "a function", "pass one that takes a line.");
  if (embeddings !== undefined && !(embeddings.encoder instanceof Encoder)) {
    const fix = "pass what Encoder.load gave.";
    throw new OptionError("embeddings.encoder", embeddings.encoder, "an encoder", fix);
  }
  if (engine.adapters.includes(model)) {
    const fix = "give the model or the adapter another.";
    throw new OptionError("model", model, "a name that no adapter has", fix);
  }
  return { model, host, port, maxRequests, maxBodyBytes, maxTokens, maxSeconds, log };
}
