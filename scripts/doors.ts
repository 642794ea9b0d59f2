import manifest from "../package.json";

/** What a user may import, by the name of the import: the source behind each, from the root. */
export const doors: Readonly<Record<string, string>> = Object.fromEntries(
  Object.entries(manifest.exports).flatMap(([name, target]) =>
    typeof target === "string" ? [] : [[name.replace(/^\./, "flashbun"), target.bun.slice(2)]],
  ),
);
