/** Keys and values in other places than one behind the other: what a run of such a case takes. */
import type { RunTensors } from "../../src/attention/tensors.ts";
import { listsOf } from "../../src/cache/page-lists.ts";
import { type Batch, createBatch } from "../../src/kv/batch.ts";
import { pagesLayout } from "../../src/kv/layout.ts";
import { dtypeBytes } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Case, tailDim } from "./cases.ts";
import { indptrOf } from "./numbers.ts";
import type { HostRequest, Rig } from "./rig.ts";

/** The tensors of a run of keys whose ends lie in a tensor of their own: poison in their place. */
export function withTail(
  c: Case,
  source: Partial<RunTensors>,
): Partial<RunTensors> & { owned: Tensor[] } {
  const k = source.k!;
  const tail = tailDim(c);
  const axis = k.shape.length - 1;
  const head = k.shape[axis] - tail;
  const bytes = k.toBytes();
  const copy = (from: number, to: number, width: number) => {
    const step = dtypeBytes(k.dtype);
    const rows = k.elements / k.shape[axis];
    const part = new Uint8Array(rows * width * step).fill(0xff);
    for (let row = 0; row < rows; row++) {
      const first = row * k.shape[axis] * step;
      part.set(bytes.subarray(first + from * step, first + to * step), row * width * step);
    }
    return Tensor.fromBits(k.device, part, [...k.shape.slice(0, axis), width], k.dtype);
  };
  const [first, kTail] = [copy(0, head, k.shape[axis]), copy(head, head + tail, tail)];
  const v = c.latent ? first.slice(axis, 0, c.valueDim) : source.v;
  return { ...source, k: first, v, kTail, owned: [first, kTail] };
}

/** The same of values, and what goes by their pages, one page on: with a table of their own. */
export function withValuePages(
  batch: Batch,
  source: Partial<RunTensors>,
  vScale: RunTensors["vScale"],
): Partial<RunTensors> & { owned: Tensor[] } {
  const v = source.v!;
  const { device } = v;
  const lists = listsOf(batch);
  lists?.sync(batch, device.stream);
  device.stream.wait();
  const table = lists?.table ?? source.pageTable!;
  const pages = v.shape[0];
  const ids = (table as Tensor).toTypedArray() as Int32Array;
  // Entries that nothing reads may hold anything.
  const next = ids.map((page) => (page >= 0 && page < pages ? (page + 1) % pages : -1));
  const valuePageTable = Tensor.from(device, next, (table as Tensor).shape, "i32");
  const moved = moveOn(v);
  const owned = [valuePageTable, moved];
  const tensors = { ...source, v: moved, valuePageTable, vScale, owned };
  if (!(vScale instanceof Tensor) || vScale.shape.length !== 3) return tensors;
  const scales = moveOn(vScale);
  return { ...tensors, vScale: scales, owned: [...owned, scales] };
}

/** A tensor whose row i is what row i - 1 was. */
function moveOn(tensor: Tensor): Tensor {
  const bytes = tensor.toBytes();
  const row = bytes.length / tensor.shape[0];
  const moved = new Uint8Array(bytes.length);
  moved.set(bytes.subarray(0, bytes.length - row), row);
  moved.set(bytes.subarray(bytes.length - row), 0);
  return Tensor.fromBits(tensor.device, moved, tensor.shape, tensor.dtype);
}

/** Every other request in pages, the others in tensors without. Returns the output's bytes. */
export function runMixed(rig: Rig): Uint8Array {
  const { c, device } = rig;
  const { pageSize, kvLengths, queryLengths, kvHeads, headDim, valueDim, kvDtype } = c;
  const columns = Math.max(...kvLengths.map((length) => Math.ceil(length / pageSize)), 1);
  const pages = columns * kvLengths.length + 1;
  const table = new Int32Array(kvLengths.length * columns);
  const kBytes = poisonBytes(pages * pageSize * kvHeads * headDim * dtypeBytes(kvDtype));
  const vBytes = poisonBytes(pages * pageSize * kvHeads * valueDim * dtypeBytes(kvDtype));
  const ragged: [Uint8Array[], Uint8Array[]] = [[], []];
  const raggedStarts: number[] = [];
  const requests: HostRequest[] = [];
  let tokens = 0;
  for (const [r, keys] of kvLengths.entries()) {
    const q = rig.queries(queryLengths[r]);
    const k = rig.rows(keys, headDim, q);
    const v = rig.values(keys, k);
    const [kRows, vRows] = [bytesOf(rig, k, headDim), bytesOf(rig, v, valueDim)];
    const isRagged = r % 2 === 0;
    raggedStarts.push(isRagged ? tokens : -1);
    const places = new Int32Array(keys);
    if (isRagged) {
      ragged[0].push(kRows);
      ragged[1].push(vRows);
      tokens += keys;
    }
    for (let token = 0; !isRagged && token < keys; token++) {
      const page = (pages - 1 - (r * columns + Math.floor(token / pageSize))) % pages;
      table[r * columns + Math.floor(token / pageSize)] = page;
      places[token] = page * pageSize + (token % pageSize);
      put(kBytes, kRows, places[token], token, keys);
      put(vBytes, vRows, places[token], token, keys);
    }
    requests.push({ q, k, v, places });
  }
  const pool = (bytes: Uint8Array, dim: number) =>
    Tensor.fromBits(device, bytes, [pages, pageSize, kvHeads, dim], kvDtype);
  const rows = (parts: Uint8Array[], dim: number) => {
    const row = kvHeads * dim * dtypeBytes(kvDtype);
    const bytes = new Uint8Array(Buffer.concat([...parts, poisonBytes(3 * row)]));
    return Tensor.fromBits(device, bytes, [bytes.length / row, kvHeads, dim], kvDtype);
  };
  const slots = Int32Array.from(kvLengths, (_, r) => r);
  const indptr = Int32Array.from(indptrOf(queryLengths));
  const lengths = Int32Array.from(kvLengths);
  const layout = pagesLayout(pageSize, indptr, slots, lengths, raggedStarts);
  const batch = createBatch({ queryLengths, kvLengths, layout });
  using k = pool(kBytes, headDim);
  using v = pool(vBytes, valueDim);
  using kRagged = rows(ragged[0], headDim);
  using vRagged = rows(ragged[1], valueDim);
  using pageTable = Tensor.from(device, table, [kvLengths.length, columns], "i32");
  return rig.check(batch, requests, { k, v, kRagged, vRagged, pageTable, layout: "NHD" });
}

function poisonBytes(count: number): Uint8Array {
  return new Uint8Array(count).fill(0xff);
}

/** Rows in the dtype of keys and values. */
function bytesOf({ c, device }: Rig, rows: Float64Array, dim: number): Uint8Array {
  if (rows.length === 0) return new Uint8Array(0);
  const shape = [rows.length / (c.kvHeads * dim), c.kvHeads, dim];
  using tensor = Tensor.from(device, rows, shape, c.kvDtype);
  return tensor.toBytes();
}

function put(pool: Uint8Array, rows: Uint8Array, slot: number, token: number, tokens: number) {
  const row = rows.length / tokens;
  pool.set(rows.subarray(token * row, (token + 1) * row), slot * row);
}
