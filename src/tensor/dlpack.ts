import type { Device } from "../device/device.ts";
import { requireDevice } from "../device/context.ts";
import { Owner } from "../device/owner.ts";
import { requireStream, type Stream } from "../device/stream.ts";
import { callDeleter, nativeView, out, valueOf } from "../ffi/foreign.ts";
import { exportDeleter, native } from "../ffi/library.ts";
import { check } from "../ffi/status.ts";
import { requireInteger, requireOptions } from "../require.ts";
import {
  deviceTypes,
  type DLPackTensor,
  flagOffset,
  managedBytes,
  readManaged,
  unreadable,
  writeManaged,
} from "./dlpack-struct.ts";
import { axesMax } from "./shape.ts";
import { requireTensor, Tensor } from "./tensor.ts";

/** Owns an imported struct: disposal notifies its producer, once, that it is no longer read. */
export class Imported extends Owner {
  /** @param call calls a deleter at an address with the struct's address */
  constructor(
    readonly deleter: number,
    readonly managed: number,
    readonly call: (deleter: number, managed: number) => void = callDeleter,
  ) {
    super("imported DLPack tensor");
  }

  protected override release(): void {
    if (this.deleter !== 0) this.call(this.deleter, this.managed);
  }
}

/** Options of {@link toDLPack}. */
export interface ExportOptions {
  /** Hands the tensor over: it is disposed when the consumer is done. */
  transfer?: boolean;
  /** Tells the consumer not to write. */
  readOnly?: boolean;
  /**
   * The consumer's stream (see Stream.wrap): it is made to wait for the work queued so far, so that
   * the host need not.
   */
  stream?: Stream;
}

interface Exported {
  address: number;
  flag: DataView;
  tensor: Tensor;
  transfer: boolean;
}

const exported = new Set<Exported>();
let sweeper: ReturnType<typeof setInterval> | undefined;

/**
 * Address of a new DLManagedTensorVersioned that shows the tensor to another library, which calls
 * its deleter when done (from any thread). Blocks until the work queued so far is done, unless
 * the consumer's stream is given. The tensor stays referenced until then and must not be disposed
 * before, unless it is handed over.
 */
export function toDLPack(tensor: Tensor, options: ExportOptions = {}): number {
  requireTensor("tensor", tensor);
  tensor.guard();
  requireOptions("options", options, ["transfer", "readOnly", "stream"]);
  const { device } = tensor;
  if (options.stream !== undefined) requireStream(options.stream, device);
  if (options.stream === undefined) {
    device.stream.wait();
  } else {
    using event = device.createEvent("DLPack export");
    event.record(device.stream);
    options.stream.waitFor(event);
  }
  const axes = tensor.shape.length;
  const created = out();
  check(native().fb_dlpack_create(managedBytes(axes), created), "DLPack export");
  const address = valueOf(created);
  writeManaged(nativeView, address, {
    address: tensor.address,
    deviceType: deviceTypes[device.kind],
    deviceId: device.ordinal,
    shape: [...tensor.shape],
    strides: [...tensor.strides],
    dtype: tensor.dtype,
    readOnly: options.readOnly ?? false,
    deleter: exportDeleter(),
  });
  const flag = nativeView(address + flagOffset(axes), 4);
  exported.add({ address, flag, tensor, transfer: options.transfer ?? false });
  sweeper ??= setInterval(sweepExports, 50).unref();
  return address;
}

/**
 * Frees exported structs whose consumers are done; a timer does it too. Returns how many are out.
 */
export function sweepExports(): number {
  for (const entry of exported) {
    if (entry.flag.getUint32(0, true) === 0) continue;
    exported.delete(entry);
    native().fb_dlpack_destroy(entry.address);
    if (entry.transfer) entry.tensor[Symbol.dispose]();
  }
  if (exported.size === 0) {
    clearInterval(sweeper);
    sweeper = undefined;
  }
  return exported.size;
}

/**
 * A tensor over memory of another library, without a copy: disposing it calls the producer's
 * deleter. Read-only memory is refused unless `allowReadOnly` promises not to write it. Throws
 * InputError, and then the struct still belongs to the caller.
 */
export function fromDLPack(
  device: Device,
  managed: number,
  options: { allowReadOnly?: boolean } = {},
): Tensor {
  requireDevice(device);
  requireInteger("managed", managed, 1);
  requireOptions("options", options, ["allowReadOnly"]);
  const found = readManaged(nativeView, managed);
  if (!reaches(device, found))
    throw unreadable(
      `it lies on ${placeOf(found)}, the ${device.label} does not reach it`,
      "open the device that it lies on, or copy it there first.",
    );
  if (found.shape.length > axesMax)
    throw unreadable(`it has ${found.shape.length} axes`, `reshape it to at most ${axesMax}.`);
  if (found.readOnly && options.allowReadOnly !== true)
    throw unreadable("it is read-only", "pass { allowReadOnly: true } and never write to it.");
  const keep = new Imported(found.deleter, managed);
  // A tensor without elements may have no data; it needs an address that nothing ever reads.
  const address = found.address || managed;
  return Tensor.fromPointer(device, address, found.shape, found.dtype, {
    strides: found.strides,
    keep,
  });
}

/** The CPU and pinned memory are host memory; a GPU reaches its own and pinned memory. */
function reaches(device: Device, { deviceType, deviceId }: DLPackTensor): boolean {
  if (deviceType === deviceTypes.cudaHost) return true;
  if (deviceType !== deviceTypes[device.kind]) return false;
  return device.kind === "cpu" || deviceId === device.ordinal;
}

function placeOf({ deviceType, deviceId }: DLPackTensor): string {
  if (deviceType === deviceTypes.cuda) return `cuda:${deviceId}`;
  return deviceType === deviceTypes.cpu ? "the host" : "pinned host memory";
}
