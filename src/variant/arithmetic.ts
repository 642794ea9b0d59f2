import type { Op, ValueType } from "./expression.ts";

type Operation = (a: number, b: number, c: number) => number;

const real: Partial<Record<Op, Operation>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  mod: (a, b) => a - b * Math.floor(a / b),
  min: (a, b) => Math.min(a, b),
  max: (a, b) => Math.max(a, b),
  pow: (a, b) => (a > 0 ? a ** b : a === 0 && b > 0 ? 0 : Number.NaN),
  neg: (a) => -a,
  abs: Math.abs,
  floor: Math.floor,
  exp: Math.exp,
  log: Math.log,
  tanh: Math.tanh,
  sigmoid: (a) => 1 / (1 + Math.exp(-a)),
  sqrt: Math.sqrt,
  rsqrt: (a) => 1 / Math.sqrt(a),
  sin: Math.sin,
  cos: Math.cos,
  toI32: (a) => Math.max(-0x80000000, Math.min(0x7fffffff, Math.trunc(a))) || 0,
};

const integer: Partial<Record<Op, Operation>> = {
  add: (a, b) => (a + b) | 0,
  sub: (a, b) => (a - b) | 0,
  mul: Math.imul,
  div: (a, b) => (b === 0 ? 0 : Math.floor(a / b) | 0),
  mod: (a, b) => (b === 0 ? 0 : (a - b * Math.floor(a / b)) | 0),
  min: (a, b) => Math.min(a, b),
  max: (a, b) => Math.max(a, b),
  neg: (a) => -a | 0,
  abs: (a) => Math.abs(a) | 0,
  toF32: (a) => a,
  and: (a, b) => a & b,
  or: (a, b) => a | b,
  xor: (a, b) => a ^ b,
  not: (a) => ~a,
  shl: (a, b) => a << (b & 31),
  shr: (a, b) => a >> (b & 31),
};

const truth: Partial<Record<Op, Operation>> = {
  and: (a, b) => a & b,
  or: (a, b) => a | b,
  xor: (a, b) => a ^ b,
  not: (a) => 1 - a,
};

const either: Partial<Record<Op, Operation>> = {
  lt: (a, b) => Number(a < b),
  le: (a, b) => Number(a <= b),
  eq: (a, b) => Number(a === b),
  ne: (a, b) => Number(a !== b),
  select: (a, b, c) => (a === 0 ? c : b),
};

const tables: Record<ValueType, Partial<Record<Op, Operation>>> = {
  f32: { ...real, ...either },
  i32: { ...integer, ...either },
  bool: { ...truth, ...either },
};

/**
 * What an operation does to values of the type of its first input: f32 in f64, i32 exactly, bool as
 * 0 and 1. undefined: it computes nothing from values, or nothing from this type.
 */
export function arithmetic(op: Op, type: ValueType): Operation | undefined {
  return tables[type][op];
}
