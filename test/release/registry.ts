import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { installApart } from "../support/packages-apart.ts";
import { freePort } from "../../src/cli/free-port.ts";

/** An npm registry on this machine. */
export interface Registry extends AsyncDisposable {
  /** What sends npm and bun to it, as a user who may publish. */
  readonly environment: Readonly<Record<string, string>>;
}

const startMilliseconds = 60_000;

/**
 * Starts Verdaccio on loopback with an empty storage. It holds what is published to it, and fetches
 * everything else from the registry that npm is set to.
 * @param folder for its storage and its settings
 */
export async function startRegistry(folder: string): Promise<Registry> {
  const packages = await installApart(join(import.meta.dir, "registry"));
  mkdirSync(folder, { recursive: true });
  const port = freePort();
  const config = join(folder, "config.json");
  writeFileSync(config, JSON.stringify(configuration(upstream())));
  const program = join(packages, "verdaccio", "bin", "verdaccio");
  const url = `http://127.0.0.1:${port}/`;
  const child = Bun.spawn(["node", program, "--config", config, "--listen", url], {
    cwd: folder,
    stdout: Bun.file(join(folder, "log.txt")),
    stderr: Bun.file(join(folder, "errors.txt")),
  });
  const stop = async () => {
    child.kill();
    await child.exited;
  };
  try {
    await answering(url, child);
    const settings = join(folder, "npmrc");
    writeFileSync(settings, `//127.0.0.1:${port}/:_authToken=${await newUser(url)}\n`);
    const environment = {
      npm_config_registry: url,
      NPM_CONFIG_REGISTRY: url,
      npm_config_userconfig: settings,
      npm_config_cache: join(folder, "npm-cache"),
      BUN_INSTALL_CACHE_DIR: join(folder, "bun-cache"),
    };
    return { environment, [Symbol.asyncDispose]: stop };
  } catch (cause) {
    await stop();
    const log = ["log.txt", "errors.txt"].map((name) => readFileSync(join(folder, name), "utf8"));
    throw new Error(`Verdaccio did not start:\n${log.join("")}`, { cause });
  }
}

function upstream(): string {
  const { stdout } = Bun.spawnSync(["npm", "config", "get", "registry"]);
  return stdout.toString().trim();
}

function configuration(url: string): object {
  return {
    storage: "./storage",
    web: { enable: false },
    auth: { htpasswd: { file: "./users" } },
    uplinks: { upstream: { url } },
    packages: {
      "{flashbun,@flashbun/*}": { access: "$all", publish: "$authenticated" },
      "**": { access: "$all", proxy: "upstream" },
    },
    log: { type: "stdout", format: "pretty", level: "warn" },
  };
}

async function answering(url: string, child: { readonly exitCode: number | null }): Promise<void> {
  const limit = performance.now() + startMilliseconds;
  while (performance.now() < limit) {
    if (child.exitCode !== null) throw new Error(`it exited with ${child.exitCode}`);
    const answer = await fetch(`${url}-/ping`).catch(() => undefined);
    if (answer?.ok) return;
    await Bun.sleep(100);
  }
  throw new Error(`no answer at ${url} in ${startMilliseconds / 1000} s`);
}

async function newUser(url: string): Promise<string> {
  const answer = await fetch(`${url}-/user/org.couchdb.user:tester`, {
    method: "PUT",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name: "tester", password: "only on this machine" }),
  });
  return ((await answer.json()) as { token: string }).token;
}
