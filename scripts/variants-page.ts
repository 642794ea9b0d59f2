/**
 * Writes into docs/variants.md what its worked examples become on a GPU, below each.
 *
 * Usage: bun run variants-page
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { emitCuda } from "../src/variant/emit-cuda.ts";
import type { Variant } from "../src/variant/variant.ts";
import { argumentsOf } from "./arguments.ts";
import { root } from "./toolchain.ts";

const page = join(root, "docs", "variants.md");
const example = /^```ts\n((?:(?!^```)[^])*?const (\w+) = defineVariant\((?:(?!^```)[^])*)^```$/gm;
const emitted =
  /(const (\w+) = defineVariant\((?:(?!^```)[^])*?^```$(?:(?!^```)[^])*?)^```cuda\n(?:(?!^```)[^])*^```$/gm;

/** The page with the CUDA text of every example as the sources emit it now. */
export async function variantsPage(text = readFileSync(page, "utf8")): Promise<string> {
  const [before, worked, ...after] = text.split(/(?=^## )/m).reduce<string[]>(
    (parts, section) => {
      if (section.startsWith("## Worked examples")) parts.push(section, "");
      else parts[parts.length - 1] += section;
      return parts;
    },
    [""],
  );
  const variants = await variantsOf(worked);
  const filled = worked.replace(
    emitted,
    (_, kept: string, name: string) => `${kept}\`\`\`cuda\n${methodsOf(variants[name])}\`\`\``,
  );
  return [before, filled, ...after].join("");
}

/** The variants that a section's examples define, by the names of their constants. */
async function variantsOf(section: string): Promise<Record<string, Variant>> {
  const blocks = [...section.matchAll(example)];
  const names = blocks.map(([, , name]) => name);
  const head = `import { defineVariant, type F32 } from "${join(root, "src", "index.ts")}";\n`;
  const folder = mkdtempSync(join(tmpdir(), "flashbun-page-"));
  try {
    const path = join(folder, "examples.ts");
    const code = blocks.map(([, block]) => block).join("\n");
    writeFileSync(path, `${head}${code}\nexport default { ${names.join(", ")} };\n`);
    return ((await import(path)) as { default: Record<string, Variant> }).default;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The functions of a variant's struct, without their parameters. */
function methodsOf(variant: Variant): string {
  const text = emitCuda(variant).attention;
  const methods = text.matchAll(/^ {4}static FB_DEVICE +(\w+ \w+)\([^{]*\{\n([\s\S]*?)^ {4}\}$/gm);
  const flags = [...text.matchAll(/^ {4}(static constexpr bool softmax = false;)$/gm)];
  return [
    ...flags.map(([, flag]) => `${flag}\n`),
    ...[...methods].map(([, name, body]) => {
      const lines = body.split("\n").filter((line) => !line.includes("[[maybe_unused]]"));
      return `${name}(...) {\n${lines.map((line) => line.slice(4)).join("\n")}}\n`;
    }),
  ].join("");
}

if (import.meta.main) {
  argumentsOf("bun run variants-page");
  writeFileSync(page, await variantsPage());
}
