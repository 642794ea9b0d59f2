/**
 * What traced processes wrote: JSON lines and, of functions, tables; zig/trace is the other side.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DebloatError } from "../../errors.ts";
import { Bytes, latin1 } from "../bytes.ts";
import { joinRanges, type Ranges } from "../elf/ranges.ts";
import type { CubinId } from "./profile.ts";

/** What processes used of one library, by the path they loaded it from. */
export interface TracedLibrary {
  readonly kernels: Set<string>;
  readonly globals: Set<string>;
  pages: Ranges;
  /** Pages of code or data that were touched; undefined where that was not said. */
  touched: Ranges | undefined;
  /** Whether some process could not say all pages that it touched. */
  isUnread: boolean;
  /** Functions that were watched, [vaddr, bytes], and the addresses of those that were entered. */
  watched: [vaddr: number, bytes: number][];
  readonly entered: Set<number>;
  /** Whether some process could not watch its host code. */
  untraced: boolean;
}

/** What all processes of a traced command said. */
export interface TraceEvents {
  readonly libraries: Map<string, TracedLibrary>;
  /** Names that were looked up in images which are in no library's memory. */
  readonly kernels: Set<string>;
  readonly globals: Set<string>;
  readonly cubins: Map<string, CubinId>;
  gpu: { arch: number; cuda: number } | null;
  processes: number;
  /** Processes that ended without saying so: killed, or ended in a way that cannot be seen. */
  lost: number;
  /** Time that processes spent in the tracer, together, without entering functions. */
  tracerSeconds: number;
  /** Parts of that: opening CUPTI, looking at images that were loaded, the ends of processes. */
  readonly parts: { opening: number; images: number; ending: number };
  /** What entering a watched function for the first time costs. */
  trapSeconds: number;
  readonly problems: Set<string>;
}

interface Event {
  event: string;
  library?: string;
  name?: string;
  pages?: Ranges;
  /** Set where the system did not say all of them. */
  unread?: number;
  bytes?: number;
  crc32?: number;
  arch?: number;
  cuda?: number;
  nanoseconds?: number;
  openingNanoseconds?: number;
  imageNanoseconds?: number;
  endingNanoseconds?: number;
  trapNanoseconds?: number;
  problem?: string;
}

/** Reads what processes wrote into a folder. */
export function readTrace(folder: string): TraceEvents {
  const events: TraceEvents = {
    libraries: new Map(),
    kernels: new Set(),
    globals: new Set(),
    cubins: new Map(),
    problems: new Set(),
    gpu: null,
    processes: 0,
    lost: 0,
    tracerSeconds: 0,
    parts: { opening: 0, images: 0, ending: 0 },
    trapSeconds: 0,
  };
  const names = readdirSync(folder).sort();
  for (const name of names.filter((name) => name.endsWith(".jsonl"))) {
    const lines = readFileSync(join(folder, name), "utf8").split("\n");
    events.processes++;
    const said = lines.map((line) => take(events, line));
    // A process ends as one program where it goes on as another.
    if (said.findLast((event) => event === "start" || event === "end") !== "end") events.lost++;
  }
  for (const name of names.filter((name) => name.endsWith(".calls")))
    takeCalls(events, readFileSync(join(folder, name)), join(folder, name));
  return events;
}

/** Takes one line; returns its kind. The last line of a process that was killed may be cut. */
function take(events: TraceEvents, line: string): string | undefined {
  let event: Event;
  try {
    event = JSON.parse(line) as Event;
  } catch {
    return undefined;
  }
  const library = event.library === undefined ? undefined : libraryAt(events, event.library);
  switch (event.event) {
    case "kernel":
      (library ?? events).kernels.add(event.name!);
      break;
    case "global":
      (library ?? events).globals.add(event.name!);
      break;
    case "pages":
      if (event.unread !== undefined) library!.untraced = true;
      library!.pages = joinRanges([...library!.pages, ...event.pages!]);
      break;
    case "touched":
      if (event.unread !== undefined) library!.isUnread = true;
      library!.touched = joinRanges([...(library!.touched ?? []), ...event.pages!]);
      break;
    case "untraced":
      library!.untraced = true;
      break;
    case "cubin": {
      const cubin = { bytes: event.bytes!, crc32: event.crc32! };
      events.cubins.set(`${cubin.bytes} ${cubin.crc32}`, cubin);
      break;
    }
    case "gpu":
      events.gpu = { arch: event.arch!, cuda: event.cuda! };
      break;
    case "problem":
      events.problems.add(event.problem!);
      break;
    case "end":
      events.tracerSeconds += event.nanoseconds! / 1e9;
      events.parts.opening += (event.openingNanoseconds ?? 0) / 1e9;
      events.parts.images += (event.imageNanoseconds ?? 0) / 1e9;
      events.parts.ending += (event.endingNanoseconds ?? 0) / 1e9;
      events.trapSeconds = event.trapNanoseconds! / 1e9;
      break;
  }
  return event.event;
}

function libraryAt(events: TraceEvents, path: string): TracedLibrary {
  let library = events.libraries.get(path);
  if (library === undefined) {
    library = {
      kernels: new Set<string>(),
      globals: new Set<string>(),
      entered: new Set<number>(),
      pages: [],
      touched: undefined,
      isUnread: false,
      watched: [],
      untraced: false,
    };
    events.libraries.set(path, library);
  }
  return library;
}

const callsMagic = "FBCALLS\x01";
const callsHeaderBytes = 32;
const callsEntryBytes = 16;

/** A table of functions: {u64 vaddr, u32 bytes, u8 original, u8 entered, u16} each. */
function takeCalls(events: TraceEvents, data: Uint8Array, file: string): void {
  const bytes = new Bytes(data, file);
  if (latin1(bytes.slice(0, 8)) !== callsMagic)
    throw new DebloatError(file, "it is no table of functions", "trace again.");
  const count = bytes.u64(8);
  const path = bytes.slice(callsHeaderBytes + count * callsEntryBytes, bytes.u64(16));
  const library = libraryAt(events, new TextDecoder().decode(path));
  for (let index = 0; index < count; index++) {
    const at = callsHeaderBytes + index * callsEntryBytes;
    const vaddr = bytes.u64(at);
    library.watched.push([vaddr, bytes.u32(at + 8)]);
    if (bytes.u8(at + 13) !== 0) library.entered.add(vaddr);
  }
}
