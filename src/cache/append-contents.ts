/** What index tensors of an append hold: looked at before a kernel follows them. */
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { AppendTable } from "./append.ts";

/** Index tensors by which tokens find their pages, and how many of those there are. */
export interface Places {
  readonly requests?: Tensor;
  readonly positions?: Tensor;
  readonly pageTable?: Tensor;
  readonly indptr?: Tensor;
  readonly table: AppendTable;
  readonly pageCount: number;
  readonly pageSize: number;
}

/** Waits for the stream, then checks each slot. Errors: OptionError naming the entry. */
export function checkSlots(slotMapping: Tensor, slots: number, stream: Stream): void {
  const values = valuesOf(slotMapping, stream);
  for (let i = 0; i < values.length; i++) {
    if (values[i] >= -1 && values[i] < slots) continue;
    const fix = "give each token page * pageSize + offset, or -1 to leave it out.";
    throw new OptionError(`slotMapping[${i}]`, values[i], `-1 to ${slots - 1}`, fix);
  }
}

/** Waits for the stream, then checks each token's place. Errors: OptionError naming the entry. */
export function checkPlaces(places: Places, stream: Stream): void {
  const { table, pageCount, pageSize } = places;
  const requests = valuesOf(places.requests!, stream);
  const positions = valuesOf(places.positions!, stream);
  const pages = valuesOf(places.pageTable!, stream);
  const indptr = places.indptr && valuesOf(places.indptr, stream);
  for (let i = 0; i < requests.length; i++) {
    const request = requests[i];
    if (request === -1) continue;
    if (!(request >= 0 && request < table.requests)) {
      const fix = "name a row of the page table, or -1 to leave the token out.";
      throw new OptionError(`requests[${i}]`, request, `-1 to ${table.requests - 1}`, fix);
    }
    const start = indptr === undefined ? request * table.stride : indptr[request];
    const end = indptr === undefined ? start + table.stride : indptr[request + 1];
    if (!(start >= 0 && start <= end && end <= table.entries)) {
      const fix = "make indptr a running sum of the requests' pages.";
      throw new OptionError(`indptr[${request + 1}]`, end, `${start} to ${table.entries}`, fix);
    }
    const most = (end - start) * pageSize - 1;
    if (!(positions[i] >= 0 && positions[i] <= most)) {
      const fix = "give the request a page for each of its tokens.";
      throw new OptionError(`positions[${i}]`, positions[i], `0 to ${most}`, fix);
    }
    const entry = start + Math.floor(positions[i] / pageSize);
    if (pages[entry] >= 0 && pages[entry] < pageCount) continue;
    const fix = "give every column that is written a page.";
    const place = indptr === undefined ? `${request}, ${entry - start}` : entry;
    throw new OptionError(`pageTable[${place}]`, pages[entry], `0 to ${pageCount - 1}`, fix);
  }
}

function valuesOf(tensor: Tensor, stream: Stream): Int32Array {
  stream.wait();
  return new Int32Array(tensor.toBytes().buffer);
}
