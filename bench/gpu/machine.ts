import type { Device } from "../../src/index.ts";

/** Name, driver, clocks and power as the driver's own tool says, else what the driver said. */
export function machineLine({ name, properties }: Device): string {
  const { driverVersion } = properties;
  const version = `${Math.floor(driverVersion / 1000)}.${Math.floor((driverVersion % 1000) / 10)}`;
  const tool = Bun.which("nvidia-smi");
  if (tool === null) return `${name}, CUDA ${version}`;
  const fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,temperature.gpu";
  const query = Bun.spawnSync([tool, `--query-gpu=${fields}`, "--format=csv,noheader"]);
  const [first] = query.stdout.toString().trim().split("\n");
  const [driver, clock, highest, memory, power, heat] = (first ?? "").split(", ");
  return (
    `${name}, CUDA ${version}, driver ${driver}, ${clock} of ${highest}, ` +
    `memory ${memory}, ${power}, ${heat} C`
  );
}
