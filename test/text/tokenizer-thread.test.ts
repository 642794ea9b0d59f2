import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { tokenizerJsonOf } from "../../src/text/gguf-tokenizer.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { TokenizerThread } from "../../src/text/tokenizer-thread.ts";
import { seeded } from "../support/random.ts";
import { runBun } from "../support/run.ts";
import { root } from "../support/sources.ts";
import { byteVocabulary } from "../support/vocabulary.ts";

const vocabulary = { model: "gpt2", pre: "smollm", ...byteVocabulary(), bos: undefined };
const json = tokenizerJsonOf(vocabulary)!;
const tokenizer = new Tokenizer(json);
const cutter = () => ({ json: JSON.stringify(json), config: {} });
const random = seeded(1);
const words = ["hello", " w", "½s ", "12", "\n", "Ü", "日本", "<user>", "🙂"];

/** A text of so many words. */
function textOf(count: number): string {
  return Array.from({ length: count }, () => words[random.integer(0, words.length - 1)]).join("");
}

describe("a tokenizer's thread", () => {
  test("cuts texts as the tokenizer does, for many at once", async () => {
    using thread = new TokenizerThread(tokenizer, cutter);
    const asked = Array.from({ length: 20 }, (_, i) => [textOf(50 * i), textOf(300)]);
    const cut = await Promise.all(asked.map((texts) => thread.encode(texts, false)));
    asked.forEach((texts, i) => {
      expect(cut[i].map((ids) => [...ids])).toEqual(
        texts.map((text) => [...tokenizer.encode(text)]),
      );
    });
  });

  test("who leaves gets the reason at once, running or waiting, and others their tokens", async () => {
    using thread = new TokenizerThread(tokenizer, cutter);
    const leave = Array.from({ length: 4 }, () => new AbortController());
    const text = textOf(20_000);
    const asked = leave.map(({ signal }) => thread.encode([text], false, signal));
    const order: string[] = [];
    asked.forEach((each, i) => {
      each.then(
        () => order.push(`${i} cut`),
        (reason: Error) => order.push(`${i} ${reason.message}`),
      );
    });
    for (const i of [0, 2]) leave[i].abort(new Error("left"));
    const [ids] = await asked[3];
    expect(ids.length).toBe(tokenizer.encode(text).length);
    await Promise.allSettled(asked);
    expect(order).toEqual(["0 left", "2 left", "1 cut", "3 cut"]);
    const late = thread.encode([text], false, AbortSignal.abort(new Error("before")));
    expect(await late.catch((reason: Error) => reason.message)).toBe("before");
    expect((await thread.encode(["hello"], false))[0].length).toBe(1);
  });

  test("ended, it says why to who waits and to who comes", async () => {
    const thread = new TokenizerThread(tokenizer, cutter);
    const asked = [thread.encode([textOf(5000)], false), thread.encode(["hello"], false)];
    thread.dispose(new Error("closed"));
    const reasons = await Promise.allSettled([...asked, thread.encode(["hello"], false)]);
    expect(reasons.map((each) => (each as PromiseRejectedResult).reason.message)).toEqual(
      Array.from({ length: 3 }, () => "closed"),
    );
  });

  test("that cannot start leaves the work here", async () => {
    using thread = new TokenizerThread(tokenizer, () => ({ json: "no JSON", config: {} }));
    const texts = ["hello", textOf(200)];
    const all = await Promise.all([thread.encode(texts, false), thread.encode(texts, false)]);
    const expected = texts.map((text) => [...tokenizer.encode(text)]);
    for (const cut of all) expect(cut.map((ids) => [...ids])).toEqual(expected);
  });

  test.each(["", "thread.dispose(new Error());"])("keeps no process alive: %s", async (end) => {
    const program = `
      import { Tokenizer } from "${join(root, "src/text/tokenizer.ts")}";
      import { TokenizerThread } from "${join(root, "src/text/tokenizer-thread.ts")}";
      const json = ${JSON.stringify(json)};
      const tokenizer = new Tokenizer(json);
      const cutter = () => ({ json: JSON.stringify(json), config: {} });
      const thread = new TokenizerThread(tokenizer, cutter);
      const [ids] = await thread.encode(["hello".repeat(5000)], false);
      console.log(ids.length);
      ${end}`;
    expect(await runBun(["-e", program])).toEqual({ code: 0, stdout: "5000\n", stderr: "" });
  });
});
