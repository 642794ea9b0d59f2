/**
 * Traces a command in a process of its own: its output is taken, and Bun's signals are left alone.
 */
import type { Traced, TraceOptions } from "../../../src/debloat/profile/trace.ts";

/** What a traced command came to, with what it printed. */
export interface TracedRun {
  traced: Traced & { out: string; err: string };
  problems: string[];
}

/** Traces a command; its output comes back beside the result. */
export async function traceWith(command: string[], options: TraceOptions): Promise<TracedRun> {
  const module = JSON.stringify(
    Bun.resolveSync("../../../src/debloat/profile/trace.ts", import.meta.dir),
  );
  const script = `
    const { traceCommand } = await import(${module});
    const [command, options] = ${JSON.stringify([command, options])};
    const problems = [];
    options.onProblem = (problem) => problems.push(problem);
    const traced = await traceCommand(command, options);
    process.send({ traced, problems });
  `;
  const said = Promise.withResolvers<TracedRun>();
  const child = Bun.spawn([process.execPath, "-e", script], {
    stdout: "pipe",
    stderr: "pipe",
    serialization: "json",
    ipc: (message: TracedRun) => said.resolve(message),
  });
  const out = new Response(child.stdout).text();
  const err = new Response(child.stderr).text();
  const code = await child.exited;
  if (code !== 0) throw new Error(await err);
  const { traced, problems } = await said.promise;
  return { traced: { ...traced, out: await out, err: await err }, problems };
}
