/** A kernel of a device: its name, handle and the bytes of parameters that a launch passes. */
export interface Kernel {
  readonly name: string;
  readonly handle: number;
  readonly paramsBytes: number;
}
