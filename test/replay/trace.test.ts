import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InputError, OptionError } from "../../src/errors.ts";
import { LineSplitter } from "../../src/replay/lines.ts";
import { readTrace } from "../../src/replay/trace.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { root } from "../support/sources.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-trace-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const azureReal = join(root, "../shared/data/azure_llm_2023_conv.csv");
const mooncakeReal = join(root, "../shared/data/mooncake_conversation.jsonl");

const header = "TIMESTAMP,ContextTokens,GeneratedTokens";
const azure = `${header}
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
`;

interface Block {
  timestamp: unknown;
  input_length: unknown;
  output_length: unknown;
  hash_ids: unknown;
}

function block(timestamp: number, input: number, output: number, ids: number[]): Block {
  return { timestamp, input_length: input, output_length: output, hash_ids: ids };
}

function jsonl(...blocks: unknown[]): string {
  return blocks.map((value) => `${JSON.stringify(value)}\n`).join("");
}

let files = 0;

function file(content: string | Uint8Array): string {
  const path = join(folder, `${files++}.trace`);
  writeFileSync(path, content);
  return path;
}

async function failure(content: string | Uint8Array, options = {}): Promise<InputError> {
  const error = await readTrace(file(content), options).catch((thrown) => thrown);
  expect(error).toBeInstanceOf(InputError);
  return error;
}

describe("azure", () => {
  test("times, lengths and ids", async () => {
    const { format, requests, skipped } = await readTrace(file(azure));
    expect(format).toBe("azure-csv");
    expect(skipped).toBe(0);
    expect(requests.map(({ id }) => id)).toEqual([0, 1, 2]);
    expect(requests.map(({ promptTokens }) => promptTokens.length)).toEqual([374, 396, 879]);
    expect(requests.map(({ outputTokens }) => outputTokens)).toEqual([44, 109, 55]);
    expect(requests[0].arrivalSeconds).toBe(0);
    expect(requests[1].arrivalSeconds).toBeCloseTo(4.314579, 5);
  });

  test("prompts of different requests differ from their first tokens on", async () => {
    const { requests } = await readTrace(file(azure));
    const starts = requests.map(({ promptTokens }) => promptTokens.subarray(0, 4).join());
    expect(new Set(starts).size).toBe(3);
    const again = await readTrace(file(azure));
    expect(again.requests).toEqual(requests);
    const other = await readTrace(file(azure), { seed: 2 });
    expect(other.requests[0].promptTokens).not.toEqual(requests[0].promptTokens);
  });

  test("CRLF, a byte order mark, blank lines, no header, no last newline", async () => {
    const expected = await readTrace(file(azure));
    const rows = azure.split("\n").slice(1).join("\n");
    const crlf = `\ufeff${azure.replaceAll("\n", "\r\n\r\n")}`;
    for (const text of [crlf, rows, azure.trimEnd(), `\n\n${azure}`])
      expect((await readTrace(file(text))).requests).toEqual(expected.requests);
  });

  test("rows out of order are sorted by arrival", async () => {
    const text = `${header}\n2023-11-16 18:15:50.5,3,4\n2023-11-16 18:15:50.0,1,2\n`;
    const { requests } = await readTrace(file(text));
    expect(requests.map(({ id }) => id)).toEqual([1, 0]);
    expect(requests.map(({ arrivalSeconds }) => arrivalSeconds)).toEqual([0, 0.5]);
  });

  const bad: [string, string, RegExp][] = [
    ["a negative length", "2023-11-16 18:15:46,-3,44", /ContextTokens .* \(got "-3"\)/],
    ["zero", "2023-11-16 18:15:46,3,0", /GeneratedTokens must be an integer from 1/],
    ["NaN", "2023-11-16 18:15:46,NaN,44", /ContextTokens .* \(got "NaN"\)/],
    ["a fraction", "2023-11-16 18:15:46,3.5,44", /\(got "3.5"\)/],
    ["an empty field", "2023-11-16 18:15:46,,44", /ContextTokens/],
    ["a huge length", `2023-11-16 18:15:46,${"9".repeat(400)},44`, /from 1 to 4194304/],
    ["just too long", "2023-11-16 18:15:46,4194305,44", /from 1 to 4194304/],
    ["a truncated row", "2023-11-16 18:15:46,3", /2 fields, not the 3/],
    ["a field too many", "2023-11-16 18:15:46,3,4,5", /4 fields, not the 3/],
    ["no time", "yesterday,3,4", /TIMESTAMP must be a date/],
    ["a thirteenth month", "2023-13-16 18:15:46,3,4", /TIMESTAMP is no date/],
  ];
  test.each(bad)("%s names line and reason", async (_, line, reason) => {
    const error = await failure(`${azure}${line}\n`);
    expect(error.line).toBe(5);
    expect(error.reason).toMatch(reason);
    expect(error.message).toContain("line 5");
    expect(error.message).toContain("Fix: ");
    expect(error.message.length).toBeLessThan(400);
    const lenient = await readTrace(file(`${line}\n${azure}${line}\n`.slice(line.length + 1)), {
      lenient: true,
    });
    expect(lenient.requests.length).toBe(3);
    expect(lenient.skipped).toBe(1);
    expect(lenient.whySkipped).toMatch(reason);
  });
});

describe("mooncake", () => {
  const shared = jsonl(
    block(0, 1100, 5, [7, 8, 9]),
    block(2500, 1200, 6, [7, 8, 10]),
    block(3000, 600, 6, [11, 8]),
  );

  test("milliseconds, and equal hash ids give equal tokens", async () => {
    const { format, requests } = await readTrace(file(shared));
    expect(format).toBe("mooncake-jsonl");
    expect(requests.map(({ arrivalSeconds }) => arrivalSeconds)).toEqual([0, 2.5, 3]);
    const [a, b, c] = requests.map(({ promptTokens }) => promptTokens);
    expect([a.length, b.length, c.length]).toEqual([1100, 1200, 600]);
    expect(a.subarray(0, 1024)).toEqual(b.subarray(0, 1024));
    expect(a[1024]).not.toBe(b[1024]);
    expect(c.subarray(512)).toEqual(a.subarray(512, 600));
    expect(new Set(a).size).toBeGreaterThan(1080);
  });

  test("shared ids share a prefix at every scale", async () => {
    for (const scaleLengths of [0.003, 0.05, 0.37, 1, 2.5]) {
      const { requests } = await readTrace(file(shared), { scaleLengths });
      const [a, b] = requests.map(({ promptTokens }) => promptTokens);
      expect(a.length).toBe(Math.max(1, Math.round(1100 * scaleLengths)));
      expect(requests[0].outputTokens).toBe(Math.max(1, Math.round(5 * scaleLengths)));
      const both = Math.min(Math.floor(1024 * scaleLengths), a.length, b.length);
      expect(a.subarray(0, both)).toEqual(b.subarray(0, both));
      if (a.length > both + 1) expect(a[both + 1]).not.toBe(b[both + 1]);
    }
  });

  const good = block(0, 5, 5, [1]);
  const bad: [string, string, RegExp][] = [
    ["truncated JSON", '{"timestamp": 0, "input_len', /not JSON/],
    ["an array", "[1, 2]", /not a JSON object/],
    ["NaN", '{"timestamp": NaN}', /not JSON/],
    ["a negative time", JSON.stringify({ ...good, timestamp: -1 }), /timestamp must be millis/],
    ["an infinite time", '{"timestamp": 1e999}', /timestamp must be milliseconds/],
    ["no length", JSON.stringify({ ...good, input_length: undefined }), /input_length must be/],
    ["a negative length", JSON.stringify({ ...good, output_length: -4 }), /output_length must be/],
    ["a length as text", JSON.stringify({ ...good, input_length: "5" }), /input_length must be/],
    ["a huge length", JSON.stringify({ ...good, input_length: 1e12 }), /from 1 to 4194304/],
    ["too few ids", JSON.stringify({ ...good, input_length: 513 }), /1 ids where .* takes 2/],
    ["too many ids", JSON.stringify({ ...good, hash_ids: [1, 2] }), /2 ids where .* takes 1/],
    ["ids that are none", JSON.stringify({ ...good, hash_ids: [-1] }), /integers of 0 or more/],
    ["ids of another type", JSON.stringify({ ...good, hash_ids: ["a"] }), /integers of 0 or/],
    ["no ids", JSON.stringify({ ...good, hash_ids: null }), /hash_ids must be an array/],
  ];
  test.each(bad)("%s names line and reason", async (_, line, reason) => {
    const error = await failure(`${shared}${line}\n`);
    expect(error.line).toBe(4);
    expect(error.reason).toMatch(reason);
    const lenient = await readTrace(file(`${shared}${line}\n`), { lenient: true });
    expect([lenient.requests.length, lenient.skipped]).toEqual([3, 1]);
  });
});

describe("burstgpt", () => {
  const older = `Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,0,417,API log
`;

  test("times and lengths; requests that failed are left out, and that is said", async () => {
    const { format, requests, skipped, whySkipped } = await readTrace(file(older));
    expect(format).toBe("burstgpt-csv");
    expect(requests.map(({ arrivalSeconds }) => arrivalSeconds)).toEqual([0, 40]);
    expect(requests.map(({ promptTokens }) => promptTokens.length)).toEqual([472, 1087]);
    expect(requests.map(({ outputTokens }) => outputTokens)).toEqual([18, 230]);
    expect(skipped).toBe(1);
    expect(whySkipped).toBe("line 4: Response tokens is 0: the request failed");
  });

  test("columns are found by their names", async () => {
    const names = "Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type";
    const newer = `${names}\n1.5,7,GPT-4,10,20,30,API log\n`;
    const { requests } = await readTrace(file(newer));
    expect([requests[0].promptTokens.length, requests[0].outputTokens]).toEqual([10, 20]);
    expect((await failure(`${newer}2,7,GPT-4,10,20\n`)).reason).toMatch(/5 fields .* header has 7/);
    expect((await failure(newer.replace("1.5", "soon"))).reason).toMatch(
      /Timestamp must be seconds/,
    );
  });
});

describe("sharegpt", () => {
  const said = (from: string, value: string) => ({ from, value });
  const conversations = [
    {
      id: "a",
      conversations: [
        said("human", "What is a page? ".repeat(4)),
        said("gpt", 'A "page" holds {16} tokens.\\'),
        said("human", "And a table?"),
        said("gpt", "It names the pages."),
      ],
    },
    { id: "b", conversations: [said("human", "What is a page? ".repeat(4)), said("gpt", "Ask.")] },
  ];

  test("each answer is a request; conversations that begin alike share a prefix", async () => {
    const texts = [
      JSON.stringify(conversations),
      JSON.stringify(conversations, null, 2),
      jsonl(...conversations),
    ];
    for (const text of texts) {
      const { format, requests } = await readTrace(file(text));
      expect(format).toBe("sharegpt-json");
      expect(requests.map(({ promptTokens }) => promptTokens.length)).toEqual([16, 26, 16]);
      expect(requests.map(({ outputTokens }) => outputTokens)).toEqual([7, 5, 1]);
      const [first, second, third] = requests.map(({ promptTokens }) => promptTokens);
      expect(second.subarray(0, 16)).toEqual(first);
      expect(third).toEqual(first);
      expect(new Set(first).size).toBeGreaterThan(3);
    }
    expect((await readTrace(file(texts[0]), { requests: 2 })).requests.length).toBe(2);
  });

  test("what is wrong is said, and left out if asked for", async () => {
    const bad = [{ conversations: 5 }, { conversations: [said("human", "alone")] }, {}];
    const text = JSON.stringify([...bad, ...conversations]).replace("[", '[{"conversations":[7]},');
    expect((await failure(text)).reason).toMatch(/a turn must have texts/);
    const { requests, skipped, whySkipped } = await readTrace(file(text), { lenient: true });
    expect([requests.length, skipped]).toEqual([3, 4]);
    expect(whySkipped).toMatch(/2 as conversations must be an array; a turn .*; .* no answer/);
    expect((await failure(JSON.stringify(conversations).slice(0, 60))).reason).toMatch(/no end/);
  });
});

describe("hash blocks", () => {
  const blocks = (size: number) =>
    jsonl(
      ...[40, 35, 100].map((length, i) => {
        const ids = Array.from({ length: Math.ceil(length / size) }, (_, at) => at);
        return block(1000 * i, length, 5, ids);
      }),
    );

  test("of any size, which the message names where another is assumed", async () => {
    const { requests } = await readTrace(file(blocks(16)), { hashBlock: 16 });
    expect(requests[1].promptTokens).toEqual(requests[0].promptTokens.subarray(0, 35));
    expect((await failure(blocks(16))).reason).toBe(
      "hash_ids has 3 ids where input_length 40 takes 1 of 512 tokens each; " +
        "blocks of 16 would fit: --hash-block 16",
    );
    const skipped = await failure(blocks(16), { lenient: true });
    expect(skipped.reason).toStartWith(
      "it holds no request: 3 lines skipped, 3 as line 1: hash_ids",
    );
    for (const hashBlock of [0, 1.5, 2 ** 20])
      expect(readTrace(file(blocks(16)), { hashBlock })).rejects.toBeInstanceOf(OptionError);
  });
});

describe("packed by gzip", () => {
  test("every format is read, whatever the file is called; damage is said", async () => {
    for (const text of [azure, jsonl(block(0, 100, 5, [1])), '[{"conversations":[]}]']) {
      const plain = await readTrace(file(text)).catch((error: Error) => error.message.slice(-60));
      const packed = Bun.gzipSync(Buffer.from(text));
      const read = await readTrace(file(packed)).catch((error: Error) => error.message.slice(-60));
      expect(read).toEqual(plain);
    }
    const packed = Bun.gzipSync(Buffer.from(azure));
    expect((await failure(packed.slice(0, 40))).reason).toMatch(/gzip packed is|cannot be read/);
    packed.fill(7, 20, 40);
    expect((await failure(packed)).reason).toMatch(/gzip packed is|cannot be read/);
  });
});

describe("files", () => {
  test("an absent file and a folder are typed errors", async () => {
    await expect(readTrace(join(folder, "absent.csv"))).rejects.toThrow(
      /absent.csv: no such file. Fix/,
    );
    await expect(readTrace(folder)).rejects.toThrow(/it is a directory. Fix/);
    await expect(readTrace(folder)).rejects.toBeInstanceOf(InputError);
  });

  test("empty, blank, header only", async () => {
    for (const text of ["", "\n\n", `${header}\n`])
      expect((await failure(text)).reason).toBe("it holds no request");
    const skipped = await failure(`${header}\nx\n`, { lenient: true });
    expect(skipped.reason).toStartWith(
      "it holds no request: 1 line skipped, line 2: 1 fields, not",
    );
  });

  test("other formats and binaries", async () => {
    expect((await failure("a,b,c\n1,2,3\n")).reason).toMatch(/of no format/);
    expect((await failure(new Uint8Array([0xff, 0xfe, 10]))).reason).toMatch(/not UTF-8/);
    const latin = Buffer.concat([Buffer.from(azure), Buffer.from([0x32, 0xe9, 0x0a])]);
    const error = await failure(latin);
    expect([error.line, error.reason]).toEqual([5, "not UTF-8 text"]);
  });

  test("a line without end is counted, not kept", async () => {
    const error = await failure(Buffer.concat([Buffer.from(azure), Buffer.alloc(3 << 20, "7")]));
    expect(error.reason).toBe(`${3 << 20} bytes in one line, at most ${1 << 20}`);
  });

  test("reading stops after the requests asked for", async () => {
    const { requests } = await readTrace(file(`${azure}broken\n`), { requests: 3 });
    expect(requests.length).toBe(3);
  });

  test("prompts that would not fit in memory are refused", async () => {
    const rows = "2023-11-16 18:15:46,4194304,1\n".repeat(65);
    const error = await failure(`${header}\n${rows}`);
    expect(error.reason).toMatch(/more than 268435456 tokens/);
    expect(error.line).toBe(66);
  });

  test("options outside their range", async () => {
    for (const options of [
      { requests: 0 },
      { requests: 1.5 },
      { requests: NaN },
      { scaleLengths: 0 },
      { scaleLengths: -1 },
      { scaleLengths: NaN },
      { scaleLengths: Infinity },
    ])
      await expect(readTrace(file(azure), options)).rejects.toBeInstanceOf(OptionError);
  });

  test.skipIf(!existsSync(azureReal))("the Azure trace as published", async () => {
    const { requests } = await readTrace(azureReal);
    expect(requests.length).toBe(19_366);
    expect(requests[0].promptTokens.length).toBe(374);
    expect(requests.at(-1)!.outputTokens).toBe(183);
    expect(requests.at(-1)!.arrivalSeconds).toBeCloseTo(3501.72, 1);
  });

  test.skipIf(!existsSync(mooncakeReal))("the Mooncake trace as published", async () => {
    const { requests } = await readTrace(mooncakeReal, { scaleLengths: 0.05 });
    expect(requests.length).toBe(12_031);
    const [a, b] = requests.map(({ promptTokens }) => promptTokens);
    expect(a.length).toBe(338);
    // The first two prompts share one block of 512 tokens.
    const shared = a.findIndex((token, i) => token !== b[i]);
    expect(shared).toBe(26);
  });
});

describe("fuzz", () => {
  const whole = {
    csv: Buffer.from(azure),
    jsonl: Buffer.from(jsonl(block(0, 600, 5, [1, 2]), block(9, 700, 6, [1, 3]))),
  };

  /** Cuts, repeats, overwrites and inserts bytes. */
  function damaged(random: Random, source: Buffer): Buffer {
    let bytes = Buffer.from(source);
    for (let edits = random.integer(1, 4); edits > 0; edits--) {
      const at = random.integer(0, bytes.length);
      const end = random.integer(at, bytes.length);
      const insert = random.pick([
        "-",
        "NaN",
        "1e999",
        "9".repeat(30),
        "\0",
        "\xff",
        '"',
        "{",
        ",",
      ]);
      const piece = random.pick([
        Buffer.alloc(0),
        bytes.subarray(at, end),
        Buffer.from(insert, "latin1"),
        Buffer.from([random.integer(0, 255), random.integer(0, 255)]),
      ]);
      const cut = random.chance(0.5) ? at : end;
      bytes = Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(cut)]);
    }
    return bytes;
  }

  test("damaged files give requests in range or an InputError", async () => {
    const cases: [Buffer, boolean][] = [];
    forSeeds(300, (random) => {
      const source = random.pick([whole.csv, whole.jsonl]);
      cases.push([damaged(random, source), random.chance(0.5)]);
    });
    const path = join(folder, "damaged");
    for (const [bytes, lenient] of cases) {
      writeFileSync(path, bytes);
      const said = `of ${JSON.stringify(bytes.toString("latin1"))}`;
      const trace = await readTrace(path, { lenient, scaleLengths: 0.01 }).catch((error) => error);
      if (trace instanceof InputError) continue;
      expect(trace.requests?.length, said).toBeGreaterThan(0);
      for (const { promptTokens, outputTokens, arrivalSeconds } of trace.requests) {
        expect(promptTokens.length, said).toBeGreaterThan(0);
        expect(Number.isSafeInteger(outputTokens) && outputTokens > 0, said).toBe(true);
        expect(arrivalSeconds >= 0 && arrivalSeconds < Infinity, said).toBe(true);
      }
    }
  });

  test("lines do not depend on how the file comes in pieces", () => {
    forSeeds(200, (random) => {
      const bytes = Buffer.from("ab\r\n\nc\u00e9d\n\n\nlast" + (random.chance(0.5) ? "\n" : ""));
      const splitter = new LineSplitter();
      const lines: (string | null)[] = [];
      for (let at = 0; at < bytes.length;) {
        const end = Math.min(bytes.length, at + random.integer(1, 6));
        for (const line of splitter.push(bytes.subarray(at, end))) lines.push(line.text);
        at = end;
      }
      for (const line of splitter.end()) lines.push(line.text);
      expect(lines).toEqual(["ab", "", "c\u00e9d", "", "", "last"]);
    });
  });
});
