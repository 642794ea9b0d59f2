/** Typed expression graphs: what the hooks of a variant are traced into. */

/** Types of values: i32 wraps around, as in CUDA; bool takes no part in arithmetic. */
export type ValueType = "f32" | "i32" | "bool";

/** What a node's value changes with. A node has all axes of its inputs; none: it is uniform. */
export const Axis = {
  /** The packed query row: its token, head, request, lengths. */
  row: 1,
  /** The key: its position and slot. */
  key: 2,
  /** The product of a query and a key. */
  score: 4,
  /** The element of a vector. */
  element: 8,
} as const;

/**
 * Operations. Integer `div` and `mod` round down, and give 0 for a divisor of 0; `mod` of f32 is
 * a - b * floor(a / b). Shifts take the low five bits of their count, `shr` keeps the sign.
 * `toF32` takes i32; `toI32` takes f32, truncates, saturates, and takes NaN to 0. `pow` takes
 * bases above 0, and 0 to 0 for exponents above 0. and, or, xor and not work on the bits of i32
 * and on bool. `lt` and `le` compare f32 or i32, `eq` and `ne` bool too. `select` is (condition,
 * yes, no). What min and max make of NaN is open.
 */
export const operations = {
  constant: 0,
  /** A scalar of the variant, by its index. */
  scalar: 0,
  input: 0,
  /** An element of a tensor: one i32 index per axis, each within the tensor (see `clamped`). */
  load: -1,
  /**
   * Is its first input, and writes the second to a tensor at the others: nothing where an index is
   * outside of the tensor. Only at the root of the logits hook, one around the other.
   */
  store: -1,
  add: 2,
  sub: 2,
  mul: 2,
  div: 2,
  mod: 2,
  min: 2,
  max: 2,
  pow: 2,
  neg: 1,
  abs: 1,
  floor: 1,
  exp: 1,
  log: 1,
  tanh: 1,
  sigmoid: 1,
  sqrt: 1,
  rsqrt: 1,
  sin: 1,
  cos: 1,
  toF32: 1,
  toI32: 1,
  and: 2,
  or: 2,
  xor: 2,
  not: 1,
  shl: 2,
  shr: 2,
  lt: 2,
  le: 2,
  eq: 2,
  ne: 2,
  select: 3,
  /** Over all elements of a vector: loses the element axis. */
  reduceSum: 1,
  reduceMax: 1,
  /**
   * Its input, an expression of the element axis, at the partner of each element (see `value`);
   * elements that take no part are their own partners.
   */
  partner: 1,
  /**
   * A vector times a matrix, a tensor [rows, columns] (see `value`), or [head, rows, columns] where
   * the head is a second input: element j is the sum over i of its input's i and the matrix's
   * (i, j). Elements from `rows` on follow behind the products as they are. One at most in a query
   * or output hook.
   */
  matmul: -1,
} as const satisfies Record<string, number>;

/** Name of an operation. */
export type Op = keyof typeof operations;

/** Name of an input of hooks; inputAxes says what each is. */
export type InputName =
  | "query"
  | "queryToken"
  | "queryIndex"
  | "request"
  | "head"
  | "kvHead"
  | "queryLength"
  | "kvLength"
  | "key"
  | "slot"
  | "x"
  | "element"
  | "lse";

/**
 * Names of inputs with their axes. Positions count in the sequence, lengths in tokens of the
 * request; `queryToken` counts over the batch, `queryIndex` within the request's new tokens; `slot`
 * is the row of keys and values: page * pageSize + offset, or the token of a contiguous layout.
 */
export const inputAxes = {
  query: Axis.row,
  queryToken: Axis.row,
  queryIndex: Axis.row,
  request: Axis.row,
  head: Axis.row,
  kvHead: Axis.row,
  queryLength: Axis.row,
  kvLength: Axis.row,
  key: Axis.key,
  slot: Axis.key,
  /**
   * Logits: scale * q.k. In the other hooks the vector's element, whose node has the axes element
   * and row (query, output) or element and key (key, value).
   */
  x: Axis.score,
  element: Axis.element,
  /** Output only: the row's log-sum-exp, base e. */
  lse: Axis.row,
} as const satisfies Record<InputName, number>;

/** A value of an expression graph; equal nodes are one. */
export interface Node {
  /** Counts up: inputs come before what is made of them. */
  readonly id: number;
  readonly op: Op;
  readonly type: ValueType;
  readonly axes: number;
  readonly inputs: readonly Node[];
  /**
   * constant: the number, or 0 and 1; scalar: its index; load, store and matmul: the tensor's
   * index; input: its index among the keys of inputAxes; partner: elements that take part,
   * negative where neighbours are pairs instead of halves; else 0.
   */
  readonly value: number;
  /** A bit for each axis whose index may be outside: load clamps it, store then writes nothing. */
  readonly clamped: number;
}

/** What a node is made of, besides its id and the axes, which follow from its inputs. */
export type Parts = Pick<Node, "op" | "type" | "inputs"> & Partial<Pick<Node, "value" | "clamped">>;

/** A size of the attention or the batch that a tensor's extent may follow. */
export type DimName =
  "queryHeads" | "kvHeads" | "headDim" | "valueDim" | "requests" | "tokens" | "slots";

/** A tensor's extent along an axis: a number, a size by name, or whatever the tensor has. */
export type Extent = number | DimName | "any";

/** Dtypes of a variant's tensors; f32 and narrower load as f32, the others as i32. */
export type TensorDtype = "f32" | "f16" | "bf16" | "f8e4m3" | "f8e5m2" | "i32" | "u8" | "bool";

/** A tensor that a variant reads (or writes, where a hook stores to it). */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: TensorDtype;
  readonly shape: readonly Extent[];
}

/** A number that each run may set. */
export interface ScalarSpec {
  readonly name: string;
  readonly type: "f32" | "i32";
  /** Used where a run gives none; undefined: each run must. */
  readonly fallback: number | undefined;
}

/** Name of a hook. */
export type HookName = "query" | "key" | "value" | "logits" | "mask" | "output";

/** Hooks, in the order in which they apply. */
export const hookNames: readonly HookName[] = ["query", "key", "value", "logits", "mask", "output"];

/** Most tensors, axes of a tensor, and scalars; see kernels/params/variant.h. */
export const tensorsMax = 8;
/** See tensorsMax. */
export const tensorAxesMax = 4;
/** See tensorsMax. */
export const scalarsMax = 16;
