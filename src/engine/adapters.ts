import { OptionError } from "../errors.ts";
import type { NumberedAdapter } from "../models/adapters.ts";
import { openAdapter } from "../weights/adapter.ts";

/** The adapters of an engine by name. */
export class AdapterNames {
  readonly #byName = new Map<string, NumberedAdapter>();
  #lastId = 0;

  /** Opens folders by name. Errors: OptionError, CheckpointError. */
  constructor(folders: Readonly<Record<string, string>>) {
    for (const [name, folder] of Object.entries(folders))
      this.#byName.set(name, this.open(name, folder));
  }

  get names(): string[] {
    return [...this.#byName.keys()];
  }

  /** Rising by number, which no two have had. */
  get all(): NumberedAdapter[] {
    return [...this.#byName.values()];
  }

  /** What of them must be the same on all ranks: names, shapes and scales. */
  get facts(): object[] {
    return [...this.#byName].map(([name, { file }]) => {
      const tensors = [...file.tensors].map(([tensor, { shape }]) => {
        return [tensor, shape, file.config.scaleOf(tensor.replace(/\.lora_[AB]\.weight$/, ""))];
      });
      return { name, tensors };
    });
  }

  /** The number of an adapter, or 0 for none. Errors: OptionError. */
  idOf(name: string | undefined): number {
    return name === undefined ? 0 : this.#known(name).id;
  }

  /** Errors: OptionError where a name stands for that number no longer. */
  requireStill(name: string | undefined, id: number): void {
    if (name === undefined || this.#byName.get(name)?.id === id) return;
    const allowed = "one that stays loaded: it was unloaded while the prompt was cut into tokens";
    throw new OptionError("adapter", name, allowed, "ask again.");
  }

  /** Opens one more, which {@link add} then makes known. Errors: OptionError, CheckpointError. */
  open(name: string, folder: string): NumberedAdapter {
    if (typeof name !== "string" || name === "")
      throw new OptionError("adapter", name, "a name", "give it one that requests can say.");
    if (this.#byName.has(name)) {
      const fix = "unload the one of that name, or give this one another.";
      throw new OptionError("adapter", name, "a name that no other has", fix);
    }
    return { id: ++this.#lastId, file: openAdapter(folder) };
  }

  add(name: string, adapter: NumberedAdapter): void {
    this.#byName.set(name, adapter);
  }

  /** All but the one of that name. Errors: OptionError. */
  without(name: string): NumberedAdapter[] {
    const gone = this.#known(name);
    return this.all.filter((adapter) => adapter !== gone);
  }

  remove(name: string): void {
    this.#byName.delete(name);
  }

  #known(name: string): NumberedAdapter {
    const found = this.#byName.get(name);
    if (found !== undefined) return found;
    const names = this.names.join(", ");
    const allowed = names === "" ? "absent: no adapter is loaded" : `one of ${names}`;
    throw new OptionError("adapter", name, allowed, "load it first, or leave it out.");
  }
}
