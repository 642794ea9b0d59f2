/** The paper measured in f16, heads of 128. */
export const dtype = "f16" as const;
export const dim = 128;
