import { OptionError } from "../errors.ts";
import { kernelSources } from "./specialization.ts";

/** A kernel that every GPU has beside attention, as its source states it. */
export interface OperatorKernel {
  readonly name: string;
  /** Path below kernels/. */
  readonly source: string;
  /** Of a block. */
  readonly threads: number;
  /** Rows, tokens or elements that one item of the grid covers. */
  readonly itemRows: number;
  /** Blocks of a cluster that takes an item together; absent: a block does. */
  readonly cluster?: number;
}

const declaration = /^FB_OPERATOR\(([^)]*)\)/gm;
let kernels: ReadonlyMap<string, OperatorKernel> | undefined;

/** The kernels of all operators by name, read from the sources when the first is asked for. */
export function operatorKernels(): ReadonlyMap<string, OperatorKernel> {
  if (kernels !== undefined) return kernels;
  const found = Object.entries(kernelSources())
    .filter(([source]) => source.endsWith(".cu"))
    .flatMap(([source, text]) => operatorsOf(source, text));
  return (kernels = new Map(found.map((kernel) => [kernel.name, kernel])));
}

/** Sources of all operators: each is compiled without constants into one image. */
export function operatorSources(): string[] {
  return [...new Set([...operatorKernels().values()].map(({ source }) => source))].sort();
}

/**
 * What the FB_OPERATOR lines of a source say (kernels/common/operator.h). Errors: OptionError for a
 * line of which threads, rows or cluster are neither a number nor a constant that is one.
 */
export function operatorsOf(source: string, text: string): OperatorKernel[] {
  return [...text.matchAll(declaration)].map(([line, list]) => {
    const [name, , threads, , itemRows, cluster] = list.split(",").map((part) => part.trim());
    const number = (word = "") => {
      const stated = new RegExp(`^constexpr int ${word} = (\\d+);`, "m").exec(text)?.[1] ?? word;
      if (/^[1-9]\d*$/.test(stated)) return Number(stated);
      const allowed = "five arguments, of which the third and those from the fifth are numbers";
      throw new OptionError(source, line, allowed, `state ${word} as \`constexpr int\`.`);
    };
    const facts = { name: name, source, threads: number(threads), itemRows: number(itemRows) };
    return cluster === undefined ? facts : { ...facts, cluster: number(cluster) };
  });
}
