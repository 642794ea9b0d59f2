import { HttpError } from "./http-errors.ts";

/** Seconds after which a client that got 429 may ask again. */
const retryAfter = { "retry-after": "1" };

/** So long responses that are cut have for their last bytes. */
const cutMs = 500;

/** What visits may take together, and each by itself. */
export interface VisitLimits {
  /** Answers at once. */
  readonly answers: number;
  readonly seconds: number;
}

/** Requests that are being answered: how many there are, and whether more may come. */
export class Visits {
  readonly #most: VisitLimits;
  /** Answers that run, or that a request is about to ask for. */
  #answers = 0;
  /** Who ends each that is open. */
  readonly #open = new Set<AbortController>();
  #closing = false;
  /** The last is over, or has waited for long enough. */
  readonly #over = Promise.withResolvers<void>();
  /** The last is over. */
  readonly #gone = Promise.withResolvers<void>();

  constructor(most: VisitLimits) {
    this.#most = most;
  }

  get closing(): boolean {
    return this.#closing;
  }

  /**
   * A request came, whose signal says when its client leaves. It is over when its response is, a
   * stream's with its last byte.
   */
  begin(client: AbortSignal, onEnd: (status: number) => void): Visit {
    let answers = 0;
    let isOver = false;
    const ended = new AbortController();
    this.#open.add(ended);
    const leave = () => ended.abort(new HttpError(499, "client_error", "the client left"));
    client.addEventListener("abort", leave);
    const timer = setTimeout(() => ended.abort(this.#late()), 1e3 * this.#most.seconds);
    return {
      streams: false,
      signal: ended.signal,
      admit: (count) => {
        if (this.#closing)
          throw new HttpError(503, "server_error", "the server is shutting down", null, retryAfter);
        const more = count - answers;
        if (this.#answers + more > this.#most.answers) {
          const message =
            `${this.#answers} requests wait or run, and at most ${this.#most.answers} may. ` +
            "Fix: ask later, or for fewer answers.";
          throw new HttpError(429, "rate_limit_error", message, null, retryAfter);
        }
        this.#answers += more;
        answers = count;
      },
      end: (status) => {
        // A stream that fails may be cancelled too.
        if (isOver) return;
        isOver = true;
        client.removeEventListener("abort", leave);
        clearTimeout(timer);
        this.#answers -= answers;
        this.#open.delete(ended);
        onEnd(status);
        if (this.#open.size > 0 || !this.#closing) return;
        this.#over.resolve();
        this.#gone.resolve();
      },
    };
  }

  #late(): HttpError {
    const message = `it took more than ${this.#most.seconds} s. Fix: ask for fewer tokens.`;
    return new HttpError(504, "timeout_error", message);
  }

  /**
   * No more are admitted. After the shortest time asked for those that are open are ended, by an
   * error; settles when the last is over, or does not end.
   */
  async close(graceMs: number): Promise<void> {
    this.#closing = true;
    if (this.#open.size === 0) return;
    const grace = setTimeout(this.#over.resolve, graceMs);
    await this.#over.promise;
    clearTimeout(grace);
    for (const ended of this.#open) ended.abort(cutShort());
    const cut = setTimeout(this.#gone.resolve, cutMs);
    if (this.#open.size > 0) await this.#gone.promise;
    clearTimeout(cut);
  }
}

/** One request on its way. */
export interface Visit {
  /** Whether its response ends later than its handler. */
  streams: boolean;
  /** Aborted with an HttpError when the client leaves, or when its time is over. */
  readonly signal: AbortSignal;
  /** Takes room for so many answers in all. Errors: HttpError 429, or 503 while closing. */
  admit(count: number): void;
  end(status: number): void;
}

/** Why an answer ends that outlives the server's grace. */
function cutShort(): HttpError {
  const message = "the server is shutting down, and this answer is not whole. Fix: ask again.";
  return new HttpError(503, "server_error", message, null, retryAfter);
}
