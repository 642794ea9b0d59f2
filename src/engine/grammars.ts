import { Grammar } from "../grammar/grammar.ts";
import { anyObject } from "../grammar/json-rules.ts";
import { type JsonSchema, objectRule, schemaRule } from "../grammar/json-schema.ts";
import { either, literal, type Rule } from "../grammar/rule.ts";
import { TokenTrie } from "../grammar/token-trie.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { NamedTool } from "./tool-options.ts";

/** Grammars that are kept: a schema is mostly asked for again. */
const grammarsMost = 32;

/** Grammars over a model's vocabulary, made when they are first asked for. */
export class Grammars {
  readonly #tokenizer: Tokenizer;
  readonly #vocabulary: number;
  readonly #byText = new Map<string, Grammar>();
  #trie: TokenTrie | undefined;

  /** @param vocabulary ids that have logits */
  constructor(tokenizer: Tokenizer, vocabulary: number) {
    this.#tokenizer = tokenizer;
    this.#vocabulary = vocabulary;
  }

  /** JSON of a schema, or with `true` any object. Errors: OptionError, named by `name`. */
  ofJson(schema: JsonSchema, name: string): Grammar {
    const make = () => (schema === true ? anyObject : schemaRule(schema, name));
    return this.#of(JSON.stringify(schema), make, name);
  }

  /** JSON of one call of the tools. Errors: OptionError for parameters that are not known. */
  ofCalls(tools: readonly NamedTool[], argumentsKey: string): Grammar {
    const names = ["name", argumentsKey];
    const callOf = ({ name, parameters, at }: NamedTool) => {
      const values = [literal(JSON.stringify(name)), schemaRule(parameters, at)];
      return objectRule(names, values, names, undefined);
    };
    const text = `calls ${JSON.stringify([argumentsKey, tools])}`;
    return this.#of(text, () => either(...tools.map(callOf)), "tools");
  }

  /** The grammar of a text that says what it is. */
  #of(text: string, make: () => Rule, name: string): Grammar {
    let grammar = this.#byText.get(text);
    if (grammar === undefined) {
      grammar = new Grammar(make(), this.#tokens(), (id) => this.#tokenizer.bytesOf(id), name);
      const [oldest] = this.#byText.keys();
      if (this.#byText.size === grammarsMost) this.#byText.delete(oldest);
    } else this.#byText.delete(text);
    // The last one asked for stands last.
    this.#byText.set(text, grammar);
    return grammar;
  }

  /** Special tokens are no text: a grammar never asks for them. */
  #tokens(): TokenTrie {
    return (this.#trie ??= new TokenTrie(
      Array.from({ length: this.#vocabulary }, (_, id) =>
        this.#tokenizer.isSpecial(id) ? undefined : this.#tokenizer.bytesOf(id),
      ),
    ));
  }
}
