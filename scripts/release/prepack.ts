/**
 * Runs before a package is packed or published, and stops what could not work together.
 *
 * Usage: bun scripts/release/prepack.ts [sources]
 *   sources  flashbun is packed, not published
 */
import { faults, sourceFaults } from "./packages.ts";

for (const sentence of process.argv[2] === "sources" ? sourceFaults() : faults()) {
  process.stderr.write(`flashbun: ${sentence}\n`);
  process.exitCode = 1;
}
