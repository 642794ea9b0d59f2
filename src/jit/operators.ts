import { OptionError } from "../errors.ts";
import { expandSource, kernelSources, type Specialization } from "./specialization.ts";

/** A kernel that every GPU has beside attention, as its source states it. */
export interface OperatorKernel {
  readonly name: string;
  /** The function's name in the source. */
  readonly entry: string;
  /** Path below kernels/. */
  readonly source: string;
  /** Of a block. */
  readonly threads: number;
  /** Rows, tokens or elements that one item of the grid covers. */
  readonly itemRows: number;
  /** Blocks of a cluster that takes an item together; absent: a block does. */
  readonly cluster?: number;
  /** Dynamic shared memory of a block. */
  readonly sharedBytes?: number;
  /** Blocks of which a multiprocessor has room for that memory. */
  readonly processorBlocks?: number;
  /** At most as many blocks as run at once, which take items in turn. */
  readonly persistent?: boolean;
  /** Starts while the kernel before it drains, and waits for it. */
  readonly programmatic: true;
}

const declaration = /^FB_(SPLIT_)?OPERATOR\(([^)]*)\)/gm;
let kernels: ReadonlyMap<string, OperatorKernel> | undefined;

/** The kernels of all operators by name, read from the sources when the first is asked for. */
export function operatorKernels(): ReadonlyMap<string, OperatorKernel> {
  if (kernels !== undefined) return kernels;
  const files = kernelSources();
  const found = Object.entries(files)
    .filter(([source]) => source.endsWith(".cu"))
    .flatMap(([source, text]) => operatorsOf(source, text, () => expandSource(source, files)));
  return (kernels = new Map(found.map((kernel) => [kernel.name, kernel])));
}

/** Sources of all operators: each is compiled without constants into one image. */
export function operatorSources(): string[] {
  return [...new Set([...operatorKernels().values()].map(({ source }) => source))].sort();
}

/** One kernel of its source, compiled sooner than all of them (kernels/common/operator.h). */
export function oneOperator({ source, entry }: OperatorKernel): Specialization {
  return { source, constants: { FB_ONE_KERNEL: 1, [`FB_WANTED_${entry}`]: "," } };
}

/**
 * What the FB_OPERATOR lines of a source say (kernels/common/operator.h). Errors: OptionError for a
 * line of which threads, rows or cluster are neither a number nor a constant that is one, there or
 * in what it includes, which `expanded` returns (the first of that name, for whatever GPU).
 */
export function operatorsOf(
  source: string,
  text: string,
  expanded: () => string = () => text,
): OperatorKernel[] {
  let whole: string | undefined;
  return [...text.matchAll(declaration)].flatMap(([line, split, list]) => {
    const [entry, , threads, processorBlocks, itemRows, cluster, shared] = list
      .split(",")
      .map((part) => part.trim());
    const number = (word = "") => {
      const constant = new RegExp(`^constexpr int ${word} = (\\d+);`, "m");
      const isNumber = /^\d/.test(word);
      const found = isNumber
        ? null
        : (constant.exec(text) ?? constant.exec((whole ??= expanded())));
      const stated = found?.[1] ?? word;
      if (/^[1-9]\d*$/.test(stated)) return Number(stated);
      const allowed = "five arguments, of which the third and the fifth to seventh are numbers";
      throw new OptionError(source, line, allowed, `state ${word} as \`constexpr int\`.`);
    };
    const rows = { threads: number(threads), itemRows: number(itemRows) };
    const facts = { entry, source, ...rows, programmatic: true } as const;
    if (cluster === undefined) return [{ name: entry, ...facts }];
    const blocks = number(cluster);
    if (shared === undefined) return [{ name: entry, ...facts, cluster: blocks }];
    const resident = {
      sharedBytes: number(shared),
      processorBlocks: number(processorBlocks),
      persistent: true,
    };
    if (split === undefined) return [{ name: entry, ...facts, cluster: blocks, ...resident }];
    return Array.from({ length: blocks }, (_, i) => {
      return { name: `${entry}_x${i + 1}`, ...facts, cluster: i + 1, ...resident };
    });
  });
}
