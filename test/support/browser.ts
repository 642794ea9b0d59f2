/** A headless Chromium, driven by its DevTools protocol. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findDebianIfAny } from "../../scripts/debian.ts";

const onPath = Bun.which("chromium") ?? Bun.which("google-chrome");
/** Chromium of this machine, else Debian's without windows; undefined: nowhere. */
export const chromium =
  onPath === null ? await findDebianIfAny("chromium-headless-shell") : [onPath];

interface Reply {
  readonly id?: number;
  readonly result?: Record<string, unknown>;
  readonly error?: { message: string };
  readonly method?: string;
  readonly params?: Record<string, unknown>;
}

/** One page of a browser of its own. */
export class Browser implements AsyncDisposable {
  /** What the page complained about: exceptions, and requests that its policy refused. */
  readonly complaints: string[] = [];
  /** Addresses that it asked for. */
  readonly asked: string[] = [];
  #lastId = 0;
  readonly #waiting = new Map<number, PromiseWithResolvers<Record<string, unknown>>>();

  private constructor(
    private readonly process: Bun.Subprocess,
    private readonly socket: WebSocket,
    private readonly folder: string,
  ) {
    socket.onmessage = ({ data }) => this.#take(JSON.parse(String(data)) as Reply);
  }

  static async open(width: number, height: number): Promise<Browser> {
    const folder = mkdtempSync(join(tmpdir(), "flashbun-browser-"));
    const args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"];
    const own = [`--user-data-dir=${folder}`, `--window-size=${width},${height}`, "about:blank"];
    const process = Bun.spawn([...chromium!, ...args, ...own], {
      stdout: "ignore",
      stderr: "pipe",
    });
    const port = await portOf(process.stderr);
    const list = await fetch(`http://127.0.0.1:${port}/json/list`);
    const pages = (await list.json()) as { type: string; webSocketDebuggerUrl: string }[];
    const { webSocketDebuggerUrl } = pages.find(({ type }) => type === "page")!;
    const socket = new WebSocket(webSocketDebuggerUrl);
    await new Promise((resolve) => (socket.onopen = resolve));
    const browser = new Browser(process, socket, folder);
    for (const domain of ["Page", "Runtime", "Log", "Network"])
      await browser.send(`${domain}.enable`);
    return browser;
  }

  /** Calls a method of the protocol. */
  async send(method: string, params: object = {}): Promise<Record<string, unknown>> {
    const id = ++this.#lastId;
    const reply = Promise.withResolvers<Record<string, unknown>>();
    this.#waiting.set(id, reply);
    this.socket.send(JSON.stringify({ id, method, params }));
    return await reply.promise;
  }

  /** The value of an expression in the page. */
  async value<T>(expression: string): Promise<T> {
    const options = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", options);
    if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails));
    return (result as { value: T }).value;
  }

  /** Waits until an expression is true. */
  async until(expression: string, withinMs = 20_000): Promise<void> {
    const deadline = performance.now() + withinMs;
    while (!(await this.value<boolean>(expression))) {
      if (performance.now() > deadline) throw new Error(`still not: ${expression}`);
      await Bun.sleep(50);
    }
  }

  /** Presses a key as a user does. */
  async press(key: string, code: number, text?: string): Promise<void> {
    const parts = { key, code: key, windowsVirtualKeyCode: code, ...(text && { text }) };
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", ...parts });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...parts });
  }

  /** The page as a PNG. */
  async screenshot(): Promise<Uint8Array> {
    const { data } = await this.send("Page.captureScreenshot");
    return Uint8Array.fromBase64(data as string);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.close();
    this.process.kill();
    await this.process.exited;
    rmSync(this.folder, { recursive: true, force: true });
  }

  #take({ id, result, error, method, params }: Reply): void {
    if (id !== undefined) {
      const reply = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) reply?.resolve(result ?? {});
      else reply?.reject(new Error(error.message));
    }
    if (method === "Runtime.exceptionThrown") this.complaints.push(JSON.stringify(params));
    if (method === "Log.entryAdded") this.complaints.push(JSON.stringify(params));
    if (method === "Network.requestWillBeSent")
      this.asked.push((params!["request"] as { url: string }).url);
  }
}

/** The port that a browser says it listens at. */
async function portOf(stderr: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of stderr) {
    text += decoder.decode(chunk, { stream: true });
    const port = /DevTools listening on ws:\/\/[\w.]+:(\d+)/.exec(text)?.[1];
    if (port !== undefined) return port;
  }
  throw new Error(`no browser: ${text}`);
}
