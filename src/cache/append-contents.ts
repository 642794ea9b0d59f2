/** What index tensors of an append hold: looked at before a kernel follows them. */
import { OptionError } from "../errors.ts";
import type { AppendTable } from "./append.ts";

/** Indices by which tokens find their pages. */
export interface PlaceIndices {
  /** By token; -1: it is left out. */
  readonly requests: Int32Array;
  readonly positions: Int32Array;
  /** By entry. */
  readonly pages: Int32Array;
  readonly indptr: Int32Array | undefined;
}

/** Checks each slot. Errors: OptionError naming the entry. */
export function checkSlots(slotMapping: Int32Array, slots: number): void {
  for (let i = 0; i < slotMapping.length; i++) {
    if (slotMapping[i] >= -1 && slotMapping[i] < slots) continue;
    const fix = "give each token page * pageSize + offset, or -1 to leave it out.";
    throw new OptionError(`slotMapping[${i}]`, slotMapping[i], `-1 to ${slots - 1}`, fix);
  }
}

/** Checks the places of the first `tokens` tokens. Errors: OptionError naming the entry. */
export function checkPlaces(
  { requests, positions, pages, indptr }: PlaceIndices,
  tokens: number,
  table: AppendTable,
  pageCount: number,
  pageSize: number,
): void {
  for (let i = 0; i < tokens; i++) {
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
