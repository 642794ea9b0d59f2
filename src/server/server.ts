import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import type { Engine } from "../engine/engine.ts";
import { requireNumber } from "../require.ts";
import { showAsText } from "../shown.ts";
import { jsonBody } from "./body.ts";
import { type Asked, chatCompletion, textCompletion } from "./completions.ts";
import { type EmbeddingModel, embeddings } from "./embeddings.ts";
import { errorResponse, HttpError } from "./http-errors.ts";
import { listening } from "./listen.ts";
import { Metrics } from "./metrics.ts";
import { type ResolvedServerOptions, resolveServerOptions, type ServerOptions } from "./options.ts";
import { pageFile } from "./page.ts";
import { type Visit, Visits } from "./visits.ts";

/** Seconds that a body may stand still before its end. */
const bodySeconds = 30;

/** A model of `/v1/models`, with the length of its context under vLLM's name. */
interface ModelObject {
  readonly id: string;
  readonly object: "model";
  readonly created: number;
  readonly owned_by: string;
  readonly max_model_len: number;
  /** Of an adapter, the model that it belongs to. */
  readonly parent?: string;
}

type Handler = (request: Request, visit: Visit) => Promise<Response> | Response;

/** An OpenAI-compatible HTTP server over an engine, which stays the caller's. */
export class ApiServer {
  readonly url: string;
  readonly #server: Bun.Server<undefined>;
  readonly #engine: Engine;
  readonly #options: ResolvedServerOptions;
  readonly #embeddings: EmbeddingModel | undefined;
  readonly #keyHash: Buffer | undefined;
  readonly #metrics: Metrics;
  readonly #visits: Visits;

  /** Listens at once. Errors: OptionError, for a port that is taken too. */
  constructor(engine: Engine, options: ServerOptions) {
    this.#options = resolveServerOptions(engine, options);
    this.#engine = engine;
    this.#embeddings = options.embeddings;
    const { host, port, maxRequests, maxBodyBytes, maxSeconds } = this.#options;
    this.#keyHash = options.apiKey === undefined ? undefined : hashOf(options.apiKey);
    this.#visits = new Visits({ answers: maxRequests, seconds: maxSeconds });
    this.#metrics = new Metrics(engine);
    const start = () =>
      Bun.serve({
        hostname: host,
        port,
        idleTimeout: bodySeconds,
        // Larger bodies are refused here, with a sentence.
        maxRequestBodySize: 2 * maxBodyBytes,
        development: false,
        fetch: (request) => this.#answer(request),
      });
    this.#server = listening({ host, port }, start);
    this.url = this.#server.url.href.replace(/\/$/, "");
  }

  /** Takes no new requests, lets responses end for so long, then closes. */
  async stop(graceMs = 30_000): Promise<void> {
    requireNumber("graceMs", graceMs, 0);
    await this.#visits.close(graceMs);
    await this.#server.stop(true);
  }

  /** @internal What console.log and JSON show. */
  toString(): string {
    return `ApiServer of ${this.#options.model} at ${this.url}`;
  }

  async #answer(request: Request): Promise<Response> {
    const id = request.headers.get("x-request-id") ?? randomUUID();
    const started = performance.now();
    const { method } = request;
    const path = pathOf(request);
    const visit = this.#visits.begin(request.signal, (status) => {
      const ms = Math.round(performance.now() - started);
      const line = { time: new Date().toISOString(), id, method, path, status, ms };
      this.#options.log(JSON.stringify(line));
    });
    let response: Response;
    try {
      response = await this.#route(request, path, visit);
    } catch (error) {
      // What ended it is why it failed, whatever came of that.
      response = errorResponse(visit.signal.reason ?? error);
    }
    response.headers.set("x-request-id", id);
    if (!visit.streams) visit.end(response.status);
    return response;
  }

  async #route(request: Request, path: string, visit: Visit): Promise<Response> {
    const { method } = request;
    const get = this.#getOf(path);
    const isGet = get !== undefined;
    const handler = get ?? this.#posts[path];
    if (handler === undefined) throw new HttpError(404, "not_found_error", `there is no ${path}`);
    const allowed = isGet ? "GET" : "POST";
    if (method !== allowed && !(isGet && method === "HEAD")) {
      const message = `${path} takes ${allowed}, not ${method}`;
      throw new HttpError(405, "invalid_request_error", message, null, { allow: allowed });
    }
    requireOwnOrigin(request);
    if (path.startsWith("/v1/") || path.startsWith("/live")) this.#requireKey(request);
    // Room is taken before the body comes: while it does, others ask too.
    if (!isGet) visit.admit(1);
    return await handler(request, visit);
  }

  #getOf(path: string): Handler | undefined {
    const named = this.#models().find(({ id }) => path === `/v1/models/${encodeURIComponent(id)}`);
    if (named !== undefined) return () => Response.json(named);
    const file = pageFile(path);
    return file === undefined ? this.#gets[path] : () => file;
  }

  readonly #gets: Readonly<Record<string, Handler>> = {
    "/v1/models": () => Response.json({ object: "list", data: this.#models() }),
    "/health": () => {
      const used = [this.#engine, ...(this.#embeddings ? [this.#embeddings.encoder] : [])];
      const failed = used.map(({ health }) => health.look()).find((found) => found !== "ok");
      const status = failed ?? (this.#visits.closing ? "draining" : "ok");
      return Response.json({ status }, { status: status === "ok" ? 200 : 503 });
    },
    "/live": () => Response.json(this.#live()),
    "/live/plan.svg": () => this.#plan(),
    "/metrics": async () => {
      const { contentType } = this.#metrics;
      return new Response(await this.#metrics.text(), { headers: { "content-type": contentType } });
    },
  };

  readonly #posts: Readonly<Record<string, Handler>> = {
    "/v1/chat/completions": (request, visit) => this.#complete(request, visit, chatCompletion),
    "/v1/completions": (request, visit) => this.#complete(request, visit, textCompletion),
    "/v1/embeddings": (request, visit) => this.#embed(request, visit),
  };

  #live(): object {
    const { model } = this.#options;
    const latencies = this.#metrics.latencies.summary();
    return { model, stats: this.#engine.stats(), latencies, ...this.#engine.live() };
  }

  #plan(): Response {
    const drawing = this.#engine.planDrawing();
    if (drawing === undefined) return new Response(null, { status: 204 });
    return new Response(drawing, { headers: { "content-type": "image/svg+xml" } });
  }

  async #complete(
    request: Request,
    visit: Visit,
    complete: (asked: Asked, body: unknown) => Promise<Response>,
  ): Promise<Response> {
    const { maxTokens } = this.#options;
    const engine = this.#engine;
    const names = [this.#options.model, ...engine.adapters];
    const { body, model } = await this.#bodyFor(request, visit, names);
    const { latencies } = this.#metrics;
    const adapter = model === names[0] ? undefined : model;
    return await complete({ engine, model, adapter, maxTokens, visit, latencies }, body);
  }

  async #embed(request: Request, visit: Visit): Promise<Response> {
    const served = this.#embeddings;
    if (served === undefined) {
      const message = "no model for embeddings is here. Fix: serve one by --embeddings.";
      throw new HttpError(404, "not_found_error", message);
    }
    const { body } = await this.#bodyFor(request, visit, [served.model]);
    return await embeddings(served, visit, body);
  }

  /** A request's body, and which of these models it asks for: the first where it says none. */
  async #bodyFor(
    request: Request,
    visit: Visit,
    models: readonly string[],
  ): Promise<{ body: unknown; model: string }> {
    const body = await jsonBody(request, this.#options.maxBodyBytes, visit.signal);
    // What follows may be silent while a prompt waits.
    this.#server.timeout(request, 0);
    const asked = (body as { model?: unknown } | null)?.model;
    const model = models.find((name) => name === (asked ?? models[0]));
    if (model !== undefined) return { body, model };
    const names = models.join(", ");
    const message = `model ${JSON.stringify(asked)} is not here. Fix: ask for ${names}.`;
    throw new HttpError(404, "not_found_error", message, "model");
  }

  #models(): ModelObject[] {
    const { contextTokens } = this.#engine.model.shape;
    const { model: parent } = this.#options;
    const { adapters } = this.#engine;
    const own = adapters.map((name) => ({ ...described(name, contextTokens), parent }));
    const served = [described(parent, contextTokens), ...own];
    if (this.#embeddings === undefined) return served;
    const { model, encoder } = this.#embeddings;
    return [...served, described(model, encoder.contextTokens)];
  }

  #requireKey(request: Request): void {
    if (this.#keyHash === undefined) return;
    const given = /^Bearer (.+)$/.exec(request.headers.get("authorization") ?? "")?.[1] ?? "";
    // Hashes are of one length, so that the comparison takes the same time whatever was given.
    if (timingSafeEqual(hashOf(given), this.#keyHash)) return;
    const message = "the API key is missing or wrong. Fix: send Authorization: Bearer KEY.";
    throw new HttpError(401, "authentication_error", message);
  }
}

function described(id: string, contextTokens: number): ModelObject {
  return { id, object: "model", created: 0, owned_by: "flashbun", max_model_len: contextTokens };
}

function pathOf(request: Request): string {
  try {
    return new URL(request.url).pathname;
  } catch {
    // A Host header that is none.
    return request.url;
  }
}

/** A page of another origin must not use what runs on its reader's machine. */
function requireOwnOrigin(request: Request): void {
  const origin = request.headers.get("origin");
  if (origin === null || origin.replace(/^https?:\/\//, "") === request.headers.get("host")) return;
  const message = `pages of ${origin} may not ask. Fix: ask from a program, or through a proxy.`;
  throw new HttpError(403, "permission_error", message);
}

function hashOf(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

showAsText(ApiServer.prototype);
