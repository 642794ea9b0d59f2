import { version } from "../../package.json";

/** The command that runs, and when, as a report says it; keys are left out. */
export function aboutRun(): string {
  const args = process.argv.slice(2).map((arg, i, all) => {
    if (all[i - 1] === "--api-key") return "...";
    return arg.replace(/^--api-key=.*/s, "--api-key=...");
  });
  const command = ["flashbun", ...args].join(" ");
  return `${command}; flashbun ${version}, ${new Date().toISOString().slice(0, 16)} UTC`;
}
