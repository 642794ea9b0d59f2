/** What was found: right, absent where it is not needed, worse than it could be, or wrong. */
export type State = "ok" | "none" | "warn" | "FAIL";

/** Says one thing that was looked at; default "ok". */
export type Say = (name: string, value: string, state?: State) => void;
