// Preloaded by a process whose device is to be lost: at SIGUSR2 it fails.
import { Device } from "../../src/device/device.ts";
import { breakDevice } from "./broken-device.ts";

const { open } = Device;
Device.open = async (...how) => {
  const device = await open.apply(Device, how);
  process.once("SIGUSR2", () => void breakDevice(device));
  return device;
};
