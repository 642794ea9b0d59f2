import type { Plan } from "./plan.ts";
import {
  AttentionRecordField as Field,
  attentionRecordInts,
  MergeRecordField,
  mergeRecordInts,
} from "./record.gen.ts";

/** A record read back from a plan: `fb_attention_record`, and the class whose launch has it. */
export type PlanRecord = { [name in keyof typeof Field]: number } & { kernelClass: string };

/** A merge read back from a plan: `fb_merge_record`, and its parts. */
export type PlanMerge = { [name in keyof typeof MergeRecordField]: number } & {
  /** Partial row of the first row in each part. */
  parts: Int32Array;
};

/** The records of a plan that have rows, in order. */
export function recordsOf({ launches, sections, offsets }: Plan): PlanRecord[] {
  return launches.flatMap(({ kernelClass, firstRecord, recordCount }) =>
    Array.from({ length: recordCount }, (_, i) => {
      const at = offsets.records + (firstRecord + i) * attentionRecordInts;
      return { kernelClass, ...fieldsOf(Field, sections, at) };
    }),
  );
}

/** The merges of a plan, in order. */
export function mergesOf({ mergeCount, sections, offsets }: Plan): PlanMerge[] {
  return Array.from({ length: mergeCount }, (_, m) => {
    const at = offsets.merges + m * mergeRecordInts;
    const fields = fieldsOf(MergeRecordField, sections, at);
    const first = offsets.parts + fields.partStart;
    return { ...fields, parts: sections.subarray(first, first + fields.partCount) };
  });
}

function fieldsOf<Name extends string>(
  places: Readonly<Record<Name, number>>,
  sections: Int32Array,
  at: number,
): Record<Name, number> {
  const fields = {} as Record<Name, number>;
  for (const name in places) fields[name] = sections[at + places[name]];
  return fields;
}
