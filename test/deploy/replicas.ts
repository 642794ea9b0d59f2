import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findDebian } from "../../scripts/debian.ts";
import { entry } from "../cli/run.ts";
import { freePort } from "../../src/cli/free-port.ts";
import { root } from "../support/sources.ts";

/** A process that answers on loopback. */
export interface Answering extends AsyncDisposable {
  readonly port: number;
  readonly url: string;
  readonly child: Bun.Subprocess<"ignore", "ignore", "pipe">;
}

/** Starts a program and waits until `/health` answers 200. */
async function answering(
  command: string[],
  port: number,
  options: {
    cwd?: string;
    env?: Record<string, string | undefined>;
    /** What ends it at once. */
    signal?: NodeJS.Signals;
  } = {},
): Promise<Answering> {
  const { cwd = root, env = process.env, signal = "SIGKILL" } = options;
  const child = Bun.spawn(command, { cwd, env, stdout: "ignore", stderr: "pipe", stdin: "ignore" });
  const said = new Response(child.stderr).text();
  const url = `http://127.0.0.1:${port}`;
  while (!(await fetch(`${url}/health`).catch(() => undefined))?.ok) {
    if (child.exitCode !== null)
      throw new Error(`${command.join(" ")} exited with ${child.exitCode}:\n${await said}`);
    await Bun.sleep(50);
  }
  const stop = async () => {
    child.kill(signal);
    await child.exited;
  };
  return { port, url, child, [Symbol.asyncDispose]: stop };
}

/** Starts `flashbun serve` with these arguments behind it. */
export function startReplica(args: string[], port = freePort()): Promise<Answering> {
  const command = [process.execPath, entry, "serve", ...args, "--port", String(port)];
  return answering(command, port);
}

/** The same by another command, in a folder of its own; it knows no other flashbun. */
export function startInstalled(command: string[], cwd: string, port: number): Promise<Answering> {
  const foreign = Object.entries(process.env).filter(([name]) => !name.startsWith("FLASHBUN_"));
  return answering(command, port, { cwd, env: Object.fromEntries(foreign) });
}

/** Starts nginx by deploy/nginx.conf, but on loopback, with these replicas and its log here. */
export async function startRouter(folder: string, replicas: readonly number[]): Promise<Answering> {
  const port = freePort();
  let text = readFileSync(join(root, "deploy", "nginx.conf"), "utf8");
  const put = (from: string | RegExp, to: string) => {
    const put = text.replaceAll(from, to);
    if (put === text) throw new Error(`deploy/nginx.conf has no ${from}`);
    text = put;
  };
  put("listen 8000;", `listen 127.0.0.1:${port};`);
  replicas.forEach((replica, i) => put(`flashbun-${i}:8000`, `127.0.0.1:${replica}`));
  put(/\/tmp\//g, `${folder}/`);
  // What Bun gives as standard output cannot be opened by its name.
  put("/dev/stdout", join(folder, "log"));
  mkdirSync(folder, { recursive: true });
  // Its workers are another user's where this is root's.
  chmodSync(folder, 0o755);
  const conf = join(folder, "nginx.conf");
  writeFileSync(conf, text);
  const program = await findDebian("nginx");
  const nginx = [...program, "-p", folder, "-c", conf, "-g", "daemon off;"];
  // Killed, it would leave its workers behind.
  return await answering(nginx, port, { signal: "SIGTERM" });
}
