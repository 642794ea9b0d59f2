import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { whileBusy } from "../support/busy.ts";
import { addressOf, available, call, emulated, get, launch, must, nameOf, text } from "./cuda.ts";
import { compile, kernelOf, restart, start } from "./rig.ts";

const global = 0;
const threadLocal = 1;
const relaxed = 2;

/** What a call of the driver answers, by name. */
function answer(...args: Parameters<typeof call>): string {
  return nameOf(call(...args));
}

describe.skipIf(!available || !emulated)("the driver", () => {
  let stream = 0n;
  let other = 0n;
  let buffer = 0n;
  let addOne = 0n;
  let copyWord = 0n;
  let spin = 0n;
  let pinned = 0n;

  beforeAll(async () => {
    start();
    restart();
    [stream, other] = [get("cuStreamCreate", 1), get("cuStreamCreate", 1)];
    buffer = get("cuMemAlloc", 1024n);
    addOne = await kernelOf("faults.cu", "add_one");
    copyWord = await kernelOf("faults.cu", "copy_word");
    spin = await kernelOf("faults.cu", "spin");
    pinned = get("cuMemHostAlloc", 1024n, 0);
  });

  afterAll(() => {
    must("cuStreamDestroy", stream);
    must("cuStreamDestroy", other);
    must("cuMemFreeHost", pinned);
    must("cuMemFree", buffer);
  });

  function add(amount: number, on: bigint): void {
    expect(launch({ kernel: addOne, output: buffer, numbers: [amount], stream: on })).toBe(0);
  }

  function set(value: number): void {
    must("cuMemcpyAsync", buffer, addressOf(new Uint32Array([value])), 4n, stream);
  }

  function word(at = 0): number {
    must("cuCtxSynchronize");
    const out = new Uint32Array(1);
    must("cuMemcpyAsync", addressOf(out), buffer + BigInt(4 * at), 4n, stream);
    return out[0];
  }

  test("returns from launches at once and knows when they are done", async () => {
    const returnsEarly = (microseconds: number) => {
      expect(launch({ kernel: spin, numbers: [microseconds], stream })).toBe(0);
      const early = answer("cuStreamQuery", stream) === "CUDA_ERROR_NOT_READY";
      must("cuStreamSynchronize", stream);
      expect(answer("cuStreamQuery", stream)).toBe("CUDA_SUCCESS");
      return early;
    };
    expect(await whileBusy(returnsEarly)).toBe(true);
  });

  test("keeps a stream's order and an event's", () => {
    const [first, second] = [get("cuEventCreate", 0), get("cuEventCreate", 0)];
    for (let i = 0; i < 20; i++) {
      set(1);
      must("cuEventRecord", first, stream);
      must("cuStreamWaitEvent", other, first, 0);
      add(10, other);
      const to = buffer + 4n;
      expect(launch({ kernel: copyWord, input: buffer, output: to, stream: other })).toBe(0);
      must("cuEventRecord", second, other);
      must("cuStreamWaitEvent", stream, second, 0);
      must("cuMemsetD8Async", buffer, 0, 4n, stream);
      add(100, stream);
      expect([word(), word(1)]).toEqual([100, 11]);
    }
    must("cuEventSynchronize", second);
    expect(answer("cuEventQuery", second)).toBe("CUDA_SUCCESS");
    const milliseconds = new Float32Array(1);
    must("cuEventElapsedTime", milliseconds, first, second);
    expect(milliseconds[0]).toBeGreaterThanOrEqual(0);
    must("cuEventDestroy", first);
    must("cuEventDestroy", second);
  });

  test("captures, replays and updates graphs", () => {
    const record = (amounts: readonly number[]) => {
      must("cuStreamBeginCapture", stream, threadLocal);
      must("cuMemsetD8Async", buffer, 0, 4n, stream);
      for (const amount of amounts) add(amount, stream);
      const out = new BigUint64Array(1);
      must("cuStreamEndCapture", stream, out);
      return out[0];
    };
    set(77);
    const graph = record([1, 2]);
    expect(word()).toBe(77);
    const ready = get("cuGraphInstantiateWithFlags", graph, 0n);
    for (let i = 0; i < 3; i++) must("cuGraphLaunch", ready, stream);
    expect(word()).toBe(3);
    const [changed, longer] = [record([5, 6]), record([1, 2, 3])];
    const info = new Int32Array(6);
    must("cuGraphExecUpdate", ready, changed, info);
    must("cuGraphLaunch", ready, stream);
    expect(word()).toBe(11);
    const refused = "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE";
    expect(answer("cuGraphExecUpdate", ready, longer, info)).toBe(refused);
    expect(info[0]).toBe(2); // the topology changed
    must("cuGraphExecDestroy", ready);
    for (const one of [graph, changed, longer]) must("cuGraphDestroy", one);
  });

  test("captures two streams that fork and join", () => {
    const [fork, join] = [get("cuEventCreate", 2), get("cuEventCreate", 2)];
    const out = new BigUint64Array(1);
    must("cuStreamBeginCapture", stream, relaxed);
    must("cuMemsetD8Async", buffer, 0, 8n, stream);
    must("cuEventRecord", fork, stream);
    must("cuStreamWaitEvent", other, fork, 0);
    expect(launch({ kernel: addOne, output: buffer + 4n, numbers: [4], stream: other })).toBe(0);
    must("cuEventRecord", join, other);
    add(3, stream);
    must("cuStreamWaitEvent", stream, join, 0);
    expect(launch({ kernel: copyWord, input: buffer + 4n, output: buffer + 8n, stream })).toBe(0);
    must("cuStreamEndCapture", stream, out);
    const ready = get("cuGraphInstantiateWithFlags", out[0], 0n);
    must("cuGraphLaunch", ready, stream);
    expect([word(), word(1), word(2)]).toEqual([3, 4, 4]);

    must("cuStreamBeginCapture", stream, relaxed);
    add(1, stream);
    must("cuEventRecord", fork, stream);
    must("cuStreamWaitEvent", other, fork, 0);
    add(1, other);
    const unjoined = "CUDA_ERROR_STREAM_CAPTURE_UNJOINED";
    expect(answer("cuStreamEndCapture", stream, out)).toBe(unjoined);
    must("cuEventDestroy", fork);
    must("cuEventDestroy", join);
    must("cuGraphExecDestroy", ready);
  });

  test("refuses what cannot be captured", () => {
    const out = new BigUint64Array(1);
    const status = new Int32Array(1);
    const during = (mode: number, ...args: Parameters<typeof call>) => {
      must("cuStreamBeginCapture", stream, mode);
      const result = answer(...args);
      must("cuStreamIsCapturing", stream, status);
      const after = answer("cuStreamEndCapture", stream, out);
      return [result, status[0], after];
    };
    const unsupported = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
    const broken = [unsupported, 2, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"];
    const unharmed = ["CUDA_SUCCESS", 1, "CUDA_SUCCESS"];
    const bytes = addressOf(new Uint8Array(new ArrayBuffer(64)));
    expect(during(relaxed, "cuStreamSynchronize", stream)).toEqual(broken);
    expect(during(relaxed, "cuStreamQuery", stream)).toEqual(broken);
    expect(during(relaxed, "cuCtxSynchronize")).toEqual(broken);
    expect(during(relaxed, "cuMemcpyAsync", buffer, bytes, 64n, stream)).toEqual(broken);
    expect(during(relaxed, "cuMemcpyAsync", buffer, pinned, 64n, stream)).toEqual(unharmed);
    expect(during(global, "cuMemAlloc", out, 64n)).toEqual(broken);
    expect(during(relaxed, "cuMemAlloc", out, 64n)).toEqual(unharmed);
    expect(during(relaxed, "cuStreamSynchronize", other)).toEqual(unharmed);
  });

  test("answers wrong arguments", async () => {
    const kernel = addOne;
    const out = new BigUint64Array(1);
    expect(nameOf(launch({ kernel, threads: 64 }))).toBe("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES");
    expect(nameOf(launch({ kernel, threads: 2048 }))).toBe("CUDA_ERROR_INVALID_VALUE");
    expect(nameOf(launch({ kernel, grid: 3, cluster: 2 }))).toBe("CUDA_ERROR_INVALID_CLUSTER_SIZE");
    expect(answer("cuKernelSetAttribute", 8, 227 * 1024 + 1, kernel, 0)).toBe(
      "CUDA_ERROR_INVALID_VALUE",
    );
    expect(answer("cuMemcpyAsync", buffer + 1000n, pinned, 64n, stream)).toBe(
      "CUDA_ERROR_INVALID_VALUE",
    );
    expect(answer("cuMemAlloc", out, 1n << 40n)).toBe("CUDA_ERROR_OUT_OF_MEMORY");
    expect(answer("cuMemFree", buffer + 16n)).toBe("CUDA_ERROR_INVALID_VALUE");
    expect(answer("cuStreamQuery", 12345n)).toBe("CUDA_ERROR_INVALID_HANDLE");
    const image = new Uint8Array(await compile("faults.cu"));
    const load = (bytes: Uint8Array) =>
      answer("cuLibraryLoadData", out, bytes, 0n, 0n, 0, 0n, 0n, 0);
    expect(load(image)).toBe("CUDA_SUCCESS");
    const library = out[0];
    expect(answer("cuLibraryGetKernel", out, library, text("absent"))).toBe("CUDA_ERROR_NOT_FOUND");
    must("cuLibraryUnload", library);
    expect(load(new Uint8Array(4096))).toBe("CUDA_ERROR_INVALID_IMAGE");
    image[18] = 190; // the machine that cubins are for
    expect(load(image)).toBe("CUDA_ERROR_NO_BINARY_FOR_GPU");
    const sizes = new BigUint64Array(2);
    must("cuKernelGetParamInfo", kernel, 0n, sizes, sizes.subarray(1));
    expect([...sizes]).toEqual([0n, 320n]);
    expect(answer("cuKernelGetParamInfo", kernel, 1n, out, out)).toBe("CUDA_ERROR_INVALID_VALUE");
  });

  test("counts resident blocks by threads and shared memory", async () => {
    const kernel = await kernelOf("threads.cu", "places");
    const blocks = (threads: number, shared: number) => {
      const out = new Int32Array(1);
      const name = "cuOccupancyMaxActiveBlocksPerMultiprocessor";
      must(name, out, kernel, threads, BigInt(shared));
      return out[0];
    };
    expect(blocks(96, 0)).toBe(21);
    expect(blocks(32, 0)).toBe(32);
    expect(blocks(96, 100 << 10)).toBe(2);
    expect(blocks(96, 227 << 10)).toBe(1);
    expect(blocks(128, 0)).toBe(0); // more threads than the kernel was compiled for
  });
});
