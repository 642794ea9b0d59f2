/** Calls `stop` on Ctrl-C or SIGTERM until disposed; returns the exit code of the last one. */
export function onSignals(stop: () => void): Disposable & { readonly exitCode: number } {
  let exitCode = 0;
  const interrupted = () => {
    exitCode = 130;
    stop();
  };
  const terminated = () => {
    exitCode = 143;
    stop();
  };
  process.on("SIGINT", interrupted);
  process.on("SIGTERM", terminated);
  return {
    get exitCode() {
      return exitCode;
    },
    [Symbol.dispose]() {
      process.off("SIGINT", interrupted);
      process.off("SIGTERM", terminated);
    },
  };
}
