/** Hooks that a user wrote in CUDA C++, as part of the text that replaces attention/variant.h. */
import { dtypeMacro, typeNames } from "./cuda-expression.ts";
import { type HookName, tensorAxesMax } from "./expression.ts";
import type { Variant } from "./variant.ts";

/** The file of kernels/ that a variant's text replaces. */
export const variantFile = "attention/variant.h";

/** The parameter that all hooks have. */
export const params = "const fb_attention_params& p";

/** What the kernels call. */
export const signatures: Readonly<Record<HookName, string>> = {
  query: `void query(${params}, const Row& row, V& v)`,
  key: `void key(${params}, const KeyInputs& in, V& v)`,
  value: `void value(${params}, const KeyInputs& in, V& v)`,
  logits: `float logits(${params}, const Row& row, const Key& key, const Pair& pair)`,
  mask: `bool mask(${params}, const Row& row, const Key& key)`,
  output: `float output(${params}, const RowInputs& in, float lse, int element, float x)`,
};

/** Signatures of what is done before a product. */
export const signaturesBefore = {
  query: signatures.query.replace("query", "before_query"),
  output: signatures.output.replace("output", "before_output"),
} as const;

/** Calls of the user's functions, which kernels/attention/variant.h documents. */
const calls: Readonly<Record<HookName, string>> = {
  query: "user::query(p, row.inputs, v)",
  key: "user::key(p, in, v)",
  value: "user::value(p, in, v)",
  logits: "user::logits(p, row.inputs, key.inputs, pair.product * pair.factor)",
  mask: "user::mask(p, row.inputs, key.inputs)",
  output: "user::output(p, in, lse, element, x)",
};

/** The user's source, in a namespace with functions by the names of the tensors and scalars. */
export function writtenSource(variant: Variant): string[] {
  if (variant.cuda === undefined) return [];
  const lines = ["namespace user {"];
  variant.tensors.forEach(({ name, dtype, shape }, tensor) => {
    const indices = shape.map((_, axis) => `, int32_t i${axis}`).join("");
    const terms = shape.map((_, axis) => {
      const at = tensor * tensorAxesMax + axis;
      return `clamp_index(i${axis}, p.variant.sizes[${at}]) * p.variant.strides[${at}]`;
    });
    const offset = terms.length === 0 ? "0" : terms.join(" + ");
    lines.push(
      `FB_DEVICE auto ${name}(${params}${indices}) {`,
      `    return load_element<${dtypeMacro(dtype)}>(p.variant.data[${tensor}], ${offset});`,
      "}",
    );
  });
  variant.scalars.forEach(({ name, type }, scalar) => {
    const value = type === "f32" ? `scalar_f32(p, ${scalar})` : `p.variant.scalars[${scalar}]`;
    lines.push(`FB_DEVICE ${typeNames[type]} ${name}(${params}) { return ${value}; }`);
  });
  lines.push(userLine(variant), ...variant.cuda.source.split("\n"));
  lines.push(ownLine(lines.length), "} // namespace user", "");
  return lines;
}

/**
 * A hook that calls the user's function; a mismatch is reported with the user's line.
 *
 * @param before lines of the text before it
 */
export function writtenHook(variant: Variant, hook: HookName, before: number): string[] {
  const vector = hook === "query" || hook === "key" || hook === "value";
  const factor = hook === "logits" && variant.softmax ? " * log2_e" : "";
  const lines = [
    ...(vector ? ["    template <class V>"] : []),
    `    static FB_DEVICE ${signatures[hook]} {`,
    userLine(variant),
    `        ${vector ? "" : "return "}${calls[hook]}${factor};`,
  ];
  return [...lines, ownLine(before + lines.length), "    }"];
}

/**
 * What compilers call the user's source. It is not a path, so that the text, and with it the hash,
 * is the same wherever the source comes from; the code that reports an error knows the file and
 * line.
 */
export function sourceName({ name }: Pick<Variant, "name">): string {
  return `variant ${name}`;
}

/** What follows is the user's. */
function userLine(variant: Variant): string {
  return `#line 1 ${JSON.stringify(sourceName(variant))}`;
}

/** What follows this directive, which has `before` lines before it, is the text's own. */
function ownLine(before: number): string {
  return `#line ${before + 2} "${variantFile}"`;
}
