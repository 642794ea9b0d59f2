import { type DeviceError, OptionError } from "../errors.ts";
import { native } from "../ffi/library.ts";
import { DeviceProperties } from "../ffi/params.gen.ts";
import { check, failureOf, Status } from "../ffi/status.ts";
import type { DeviceHandle } from "../ffi/symbols.ts";
import { Notifier } from "./notifier.ts";
import type { Opened } from "./open.ts";
import { Owner } from "./owner.ts";

/** Throws unless `value` is a device that is open. Errors: OptionError, DisposedError. */
export function requireDevice(value: Context | undefined): asserts value is Context {
  // By what it can do: after a hot reload devices of the class before still serve.
  if (typeof value?.failure !== "function" || typeof value.guard !== "function")
    throw new OptionError("device", value, "a device", "pass what Device.open gave.");
  value.guard();
}

/** What is left of a device that nobody can reach any more. */
interface Remains {
  readonly handle: DeviceHandle;
  readonly notifier: Notifier;
}

const key = Symbol.for("flashbun forgotten devices");
const home = globalThis as { [key]?: FinalizationRegistry<Remains> };

/**
 * Closes forgotten devices, which would keep their threads: a hot reload leaves one behind each
 * time. On globalThis, as the registry of a module that was reloaded would be forgotten too.
 */
const forgotten = (home[key] ??= new FinalizationRegistry(close));

function close({ handle, notifier }: Remains): void {
  notifier.close();
  native().fb_device_close(handle);
}

/** A device as its streams, events and graphs know it: each of them is one of a Device. */
export class Context extends Owner {
  readonly kind: "cpu" | "cuda";
  /** Number of the GPU; 0 for the CPU. */
  readonly ordinal: number;
  /** @internal What the driver says of a GPU; zeros for the CPU. */
  readonly properties: DeviceProperties;
  /** @internal Native handle. */
  readonly handle: DeviceHandle;
  /** @internal Wakes those who wait for a stream of this device. */
  readonly notifier: Notifier;

  /** @internal Takes over a native device that was just opened. */
  constructor({ handle, kind, ordinal }: Opened) {
    const properties = new DeviceProperties();
    check(native().fb_device_properties(handle, properties.view), "device properties");
    super(kind === "cpu" ? "cpu device" : `cuda:${ordinal}`);
    this.kind = kind;
    this.ordinal = ordinal;
    this.handle = handle;
    this.properties = properties;
    this.notifier = new Notifier(properties.notifyFd);
    forgotten.register(this, { handle, notifier: this.notifier }, this);
  }

  /** The failure that stopped this device, if any. */
  failure(): DeviceError | undefined {
    this.guard();
    return this.failureNow();
  }

  /** @internal As failure, while the device is being disposed too. */
  failureNow(): DeviceError | undefined {
    const status = native().fb_device_failure(this.handle);
    return status === Status.ok ? undefined : (failureOf(status, this.label) as DeviceError);
  }

  protected override release(): void {
    forgotten.unregister(this);
    close(this);
  }
}
