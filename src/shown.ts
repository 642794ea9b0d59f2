/** How objects look in console.log and in JSON: as a line, which their toString gives. */

interface Shown {
  toString(): string;
}

const inspectKey = Symbol.for("nodejs.util.inspect.custom");

function line(this: Shown): string {
  return this.toString();
}

/** Makes console.log show all objects of a prototype, or this one, by their toString. */
export function showByLine<T extends Shown>(shown: T): T {
  return Object.defineProperty(shown, inspectKey, { value: line });
}

/** As showByLine, of plain data that has no toString of its own. */
export function showAs<T extends object>(data: T, toLine: (data: T) => string): T {
  Object.defineProperty(data, "toString", { value: () => toLine(data) });
  return showByLine(data);
}

/** As showByLine, and in JSON too: for what holds more than data. */
export function showAsText<T extends Shown>(shown: T): T {
  Object.defineProperty(shown, "toJSON", { value: line });
  return showByLine(shown);
}

/** "1 page", "2 pages". */
export function counted(count: number, unit: string, units = `${unit}s`): string {
  return `${count} ${count === 1 ? unit : units}`;
}
