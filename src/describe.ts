/** A value as an error message shows it: short, never a dump. */
export function describe(value: unknown): string {
  if (typeof value === "string")
    return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
  if (typeof value === "bigint") return `${value}n`;
  if (Array.isArray(value))
    return `[${value.slice(0, 8).map(describe).join(", ")}${value.length > 8 ? ", ..." : ""}]`;
  if (ArrayBuffer.isView(value)) return `${value.constructor.name} of ${value.byteLength} bytes`;
  if (typeof value === "object" && value !== null) {
    const { constructor } = value;
    return typeof constructor === "function" ? constructor.name : "object";
  }
  if (typeof value === "function") return value.name ? `function ${value.name}` : "a function";
  return String(value);
}
