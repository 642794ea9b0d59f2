import { OptionError } from "../errors.ts";

/** Where to listen, and how messages call the two options. */
export interface Place {
  readonly host: string;
  readonly port: number;
  readonly names?: { readonly host: string; readonly port: string };
}

/** Listens by `start`. Errors: OptionError for a port or an address that cannot be had. */
export function listening<T>({ host, port, names }: Place, start: () => T): T {
  try {
    return start();
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    // No fault of what was asked for.
    if (cause instanceof TypeError || code === "EMFILE" || code === "ENFILE") throw cause;
    const option = names?.port ?? "port";
    if (code === "EADDRINUSE") {
      const allowed = `one at which nobody listens on ${host}`;
      throw new OptionError(option, port, allowed, "give another, or 0 for any that is free.");
    }
    if (code === "EACCES")
      throw new OptionError(option, port, "one that this user may have", "give one above 1023.");
    const fix = "give 127.0.0.1 for this machine alone, or 0.0.0.0 for all that reach it.";
    throw new OptionError(names?.host ?? "host", host, "an address of this machine", fix);
  }
}

/** Throws an OptionError where nobody can listen, before anything is loaded. */
export function requirePlace(place: Place): void {
  const { host: hostname, port } = place;
  const start = () => Bun.listen({ hostname, port, socket: { data() {} } });
  listening(place, start).stop(true);
}
