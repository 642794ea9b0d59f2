import { type Bench, besides, type Case, type Measured, pairedWithCeilings } from "./bench.ts";
import { bytesOf, type Dtype, type Subject, subjects } from "./subjects.ts";

/** Operators beside attention, in bytes read and written. */
export const operatorCases: Case[] = [
  ...(["bf16", "f32"] as const).flatMap((dtype) =>
    subjects.map((subject) => ({
      name: `${subject.name}/${dtype}_t1024_d${subject.dim}`,
      run: (bench: Bench) => overRows(bench, subject, dtype),
    })),
  ),
];

async function overRows(bench: Bench, subject: Subject, dtype: Dtype): Promise<Measured> {
  const rows = bench.quick ? 16 : 1024;
  const { moves, run } = subject.prepare(bench.device, rows, subject.dim, dtype);
  const row = await moved(bench, bytesOf(moves), run);
  for (const tensor of new Set(moves)) tensor[Symbol.dispose]();
  return row;
}

/** Bytes read and written, against the rate of reading. */
export async function moved(bench: Bench, bytes: number, queue: () => void): Promise<Measured> {
  const paired = await pairedWithCeilings(bench, bench.seconds, bytes, 0, queue);
  const { ms, ceilings, ofRoofline } = paired;
  const row = { name: "", value: bytes / ms / 1e6, unit: "GB/s", ofRoofline };
  return { ...row, peer: null, ofPeer: null, more: besides(ceilings) };
}
