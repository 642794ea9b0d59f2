import { HttpError } from "./http-errors.ts";

/** Seconds after which a client that got 429 may ask again. */
const retryAfter = { "retry-after": "1" };

/** Requests that are being answered: how many there are, and whether more may come. */
export class Visits {
  readonly #most: number;
  /** Answers that run, or that a request is about to ask for. */
  #answers = 0;
  #open = 0;
  #closing = false;
  #idle: (() => void) | undefined;

  /** @param most most answers at once */
  constructor(most: number) {
    this.#most = most;
  }

  get closing(): boolean {
    return this.#closing;
  }

  /** A request came. It is over when its response is, a stream's with its last byte. */
  begin(onEnd: (status: number) => void): Visit {
    this.#open++;
    let answers = 0;
    let isOver = false;
    return {
      streams: false,
      admit: (count) => {
        if (this.#closing)
          throw new HttpError(503, "server_error", "the server is shutting down", null, retryAfter);
        const more = count - answers;
        if (this.#answers + more > this.#most) {
          const message =
            `${this.#answers} requests wait or run, and at most ${this.#most} may. ` +
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
        this.#answers -= answers;
        this.#open--;
        if (this.#open === 0) this.#idle?.();
        onEnd(status);
      },
    };
  }

  /** No more are admitted; settles when the last is over, or after so long. */
  async close(graceMs: number): Promise<void> {
    this.#closing = true;
    if (this.#open === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#idle = resolve;
    const timer = setTimeout(resolve, graceMs);
    await promise;
    clearTimeout(timer);
  }
}

/** One request on its way. */
export interface Visit {
  /** Whether its response ends later than its handler. */
  streams: boolean;
  /** Takes room for so many answers in all. Errors: HttpError 429, or 503 while closing. */
  admit(count: number): void;
  end(status: number): void;
}
