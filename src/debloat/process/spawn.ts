import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { OptionError } from "../../errors.ts";

/** How a command ended. */
export interface Ended {
  /** As shells give it: 128 and the signal's number when one ended it. */
  readonly exitCode: number;
  readonly seconds: number;
}

/**
 * Runs a command to its end with additions to the environment. Input and outputs are those of this
 * process, signals that ask for an end go to the command.
 * @throws OptionError when it cannot be started
 */
export async function runCommand(
  command: readonly string[],
  environment: Record<string, string>,
): Promise<Ended> {
  requireCommand(command);
  const started = performance.now();
  let child: ReturnType<typeof start> | undefined;
  const pass = (signal: NodeJS.Signals) => void child?.kill(signal);
  const interrupt = (signal: NodeJS.Signals) => {
    if (!hasTerminal()) pass(signal);
  };
  // Ahead of the start: a signal that comes with it must not end this process alone.
  process.on("SIGTERM", pass).on("SIGHUP", pass).on("SIGINT", interrupt);
  try {
    child = start(command, { ...process.env, ...environment });
    await child.exited;
  } finally {
    process.off("SIGTERM", pass).off("SIGHUP", pass).off("SIGINT", interrupt);
  }
  const seconds = (performance.now() - started) / 1000;
  const signal = Object.entries(constants.signals).find(([name]) => name === child.signalCode);
  return { exitCode: signal === undefined ? (child.exitCode ?? 1) : 128 + signal[1], seconds };
}

/**
 * Whether this process's group is the one that a terminal listens to. The terminal sends an
 * interrupt to all of it, so that the command has it too.
 */
function hasTerminal(): boolean {
  // proc(5), behind the name, which may hold anything: state, parent, group, session, terminal, its
  // group.
  const stat = readFileSync("/proc/self/stat", "utf8");
  const [, , group, , , foreground] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return group === foreground;
}

/** Throws an OptionError unless it is a program and its arguments. */
export function requireCommand(command: readonly string[]): void {
  if (Array.isArray(command) && command.length > 0 && command.every(isArgument)) return;
  const fix = "give the program and its arguments.";
  throw new OptionError("command", command, "a list of texts", fix);
}

function isArgument(part: unknown): boolean {
  return typeof part === "string" && !part.includes("\0");
}

function start(command: readonly string[], env: Record<string, string | undefined>) {
  try {
    return Bun.spawn([...command], { env, stdio: ["inherit", "inherit", "inherit"] });
  } catch (cause) {
    const { code } = cause as { code?: unknown };
    if (typeof code !== "string") throw cause;
    const fix = `check its name, the PATH and its permissions (the system says ${code}).`;
    throw new OptionError("command", command[0], "a program that can be started", fix);
  }
}
