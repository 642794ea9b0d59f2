/** Runs before either package is packed or published, and stops what could not work together. */
import { faults } from "./packages.ts";

for (const sentence of faults()) {
  process.stderr.write(`flashbun: ${sentence}\n`);
  process.exitCode = 1;
}
