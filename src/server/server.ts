import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import type { Engine } from "../engine/engine.ts";
import { requireInteger, requireNumber } from "../require.ts";
import { showAsText } from "../shown.ts";
import { type Asked, chatCompletion, textCompletion } from "./completions.ts";
import { errorResponse, HttpError } from "./http-errors.ts";
import { Metrics } from "./metrics.ts";

/** Where a server listens, and what it allows. */
export interface ServerOptions {
  /** Name that clients ask for, and that answers carry. */
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
  /** Takes a line of JSON for each request. Default: none. */
  log?: (line: string) => void;
}

/** Seconds after which a client that got 429 may ask again. */
const retryAfterSeconds = 1;

type Handler = (request: Request, body: unknown) => Promise<Response> | Response;

/** An OpenAI-compatible HTTP server over an engine, which stays the caller's. */
export class ApiServer {
  readonly url: string;
  readonly #server: Bun.Server<undefined>;
  readonly #engine: Engine;
  readonly #options: Required<Omit<ServerOptions, "apiKey">>;
  readonly #keyHash: Buffer | undefined;
  readonly #metrics: Metrics;
  #draining = false;

  /** Listens at once. Errors: OptionError; what Bun.serve throws for a port that is taken. */
  constructor(engine: Engine, options: ServerOptions) {
    const {
      model,
      host = "127.0.0.1",
      port = 8000,
      maxRequests = 256,
      maxBodyBytes = 16 << 20,
      log = () => {},
    } = options;
    requireInteger("port", port, 0, 65535);
    requireInteger("maxRequests", maxRequests, 1);
    requireInteger("maxBodyBytes", maxBodyBytes, 1);
    this.#engine = engine;
    this.#options = { model, host, port, maxRequests, maxBodyBytes, log };
    this.#keyHash = options.apiKey === undefined ? undefined : hashOf(options.apiKey);
    this.#metrics = new Metrics(engine);
    this.#server = Bun.serve({
      hostname: host,
      port,
      // A stream may be silent while its prompt waits.
      idleTimeout: 0,
      maxRequestBodySize: maxBodyBytes,
      fetch: (request) => this.#answer(request),
    });
    this.url = this.#server.url.href.replace(/\/$/, "");
  }

  /** Takes no new requests, lets those that run end for so long, then closes. */
  async stop(graceMs = 30_000): Promise<void> {
    requireNumber("graceMs", graceMs, 0);
    this.#draining = true;
    const end = performance.now() + graceMs;
    while (this.#engine.stats().requests > 0 && performance.now() < end) await Bun.sleep(20);
    await this.#server.stop(true);
  }

  /** @internal What console.log and JSON show. */
  toString(): string {
    return `ApiServer of ${this.#options.model} at ${this.url}`;
  }

  async #answer(request: Request): Promise<Response> {
    const id = request.headers.get("x-request-id") ?? randomUUID();
    const started = performance.now();
    const { pathname: path } = new URL(request.url);
    let response: Response;
    try {
      response = await this.#route(request, path);
    } catch (error) {
      response = errorResponse(error);
    }
    const ms = Math.round(performance.now() - started);
    response.headers.set("x-request-id", id);
    const { status } = response;
    const line = { time: new Date().toISOString(), id, method: request.method, path, status, ms };
    this.#options.log(JSON.stringify(line));
    return response;
  }

  async #route(request: Request, path: string): Promise<Response> {
    const { method } = request;
    const get = this.#gets[path];
    const post = this.#posts[path];
    if (get === undefined && post === undefined)
      throw new HttpError(404, "not_found_error", `there is no ${path}`);
    const allowed = get === undefined ? "POST" : "GET";
    if (method !== allowed) {
      const message = `${path} takes ${allowed}, not ${method}`;
      throw new HttpError(405, "invalid_request_error", message, null, { allow: allowed });
    }
    if (path.startsWith("/v1/")) this.#requireKey(request);
    if (get !== undefined) return await get(request, undefined);
    this.#requireRoom();
    return await post(request, await bodyOf(request));
  }

  readonly #gets: Readonly<Record<string, Handler>> = {
    "/v1/models": () => {
      const { model: id } = this.#options;
      return Response.json({
        object: "list",
        data: [{ id, object: "model", created: 0, owned_by: "flashbun" }],
      });
    },
    "/health": () =>
      this.#draining
        ? Response.json({ status: "draining" }, { status: 503 })
        : Response.json({ status: "ok" }),
    "/metrics": async () => {
      const { contentType } = this.#metrics;
      return new Response(await this.#metrics.text(), { headers: { "content-type": contentType } });
    },
  };

  readonly #posts: Readonly<Record<string, Handler>> = {
    "/v1/chat/completions": (request, body) => chatCompletion(this.#asked(request, body), body),
    "/v1/completions": (request, body) => textCompletion(this.#asked(request, body), body),
  };

  #asked({ signal }: Request, body: unknown): Asked {
    const { model } = this.#options;
    const asked = (body as { model?: unknown } | null)?.model;
    if (asked !== undefined && asked !== model) {
      const message = `model ${JSON.stringify(asked)} is not here. Fix: ask for ${model}.`;
      throw new HttpError(404, "not_found_error", message, "model");
    }
    return { engine: this.#engine, model, signal };
  }

  #requireKey(request: Request): void {
    if (this.#keyHash === undefined) return;
    const given = /^Bearer (.+)$/.exec(request.headers.get("authorization") ?? "")?.[1] ?? "";
    // Hashes are of one length, so that the comparison takes the same time whatever was given.
    if (timingSafeEqual(hashOf(given), this.#keyHash)) return;
    const message = "the API key is missing or wrong. Fix: send Authorization: Bearer KEY.";
    throw new HttpError(401, "authentication_error", message);
  }

  #requireRoom(): void {
    const later = { "retry-after": String(retryAfterSeconds) };
    if (this.#draining)
      throw new HttpError(503, "server_error", "the server is shutting down", null, later);
    const { requests } = this.#engine.stats();
    const { maxRequests } = this.#options;
    if (requests < maxRequests) return;
    const message = `${requests} requests wait or run already, the most allowed. Fix: ask later.`;
    throw new HttpError(429, "rate_limit_error", message, null, later);
  }
}

async function bodyOf(request: Request): Promise<unknown> {
  const text = await request.text();
  try {
    return JSON.parse(text);
  } catch (error) {
    const message = `the body is no JSON (${(error as Error).message}). Fix: send a JSON object.`;
    throw new HttpError(400, "invalid_request_error", message);
  }
}

function hashOf(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

showAsText(ApiServer.prototype);
