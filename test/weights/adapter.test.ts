import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/index.ts";
import { openAdapter } from "../../src/weights/adapter.ts";
import { CheckpointError } from "../../src/weights/errors.ts";
import { sweep } from "../support/deep.ts";
import { seeded } from "../support/random.ts";
import { type SafeTensor, safetensorsBytes } from "../support/safetensors.ts";
import { tinyModel, writeFolder } from "../support/tiny-llama.ts";
import { adapterTensors, llamaTargets, tinyAdapter, writeAdapter } from "../support/tiny-lora.ts";

const sizes = { layers: 2, hidden: 16, intermediate: 24, queryHeads: 2, kvHeads: 1, headDim: 8 };
const model = tinyModel(1, { ...sizes, context: 32, tied: false });
const folder = mkdtempSync(join(tmpdir(), "flashbun-adapter-"));
afterAll(() => rmSync(folder, { recursive: true }));
const path = writeFolder(join(folder, "model"), model);
const adapter = tinyAdapter(2, model, llamaTargets);
const at = (fields: object) =>
  writeAdapter(join(folder, "it"), { ...adapter, config: { ...adapter.config, ...fields } });

describe("PEFT's fields, as LoraConfig defines them", () => {
  const q = "model.layers.0.self_attn.q_proj";
  const k = "model.layers.1.self_attn.k_proj";
  test("ranks and scales", () => {
    const plain = openAdapter(at({ r: 8, lora_alpha: 16 })).config;
    expect([plain.rankOf(q), plain.scaleOf(q)]).toEqual([8, 2]);
    const rooted = openAdapter(at({ r: 16, lora_alpha: 8, use_rslora: true })).config;
    expect(rooted.scaleOf(q)).toBe(2);
    const own = openAdapter(
      at({
        r: 8,
        lora_alpha: 16,
        rank_pattern: { q_proj: 4, "layers\\.1\\.self_attn.(k|v)_proj": 2 },
        alpha_pattern: { "model.layers.1.self_attn.k_proj": 5, roj: 9 },
      }),
    ).config;
    expect([own.rankOf(q), own.scaleOf(q)]).toEqual([4, 4]);
    // A pattern begins where a part of the name does.
    expect([own.rankOf(k), own.scaleOf(k)]).toEqual([2, 2.5]);
  });

  test("targets", () => {
    const adapts = (fields: object) => {
      const { config } = openAdapter(at({ target_modules: ["q_proj", "k_proj"], ...fields }));
      return [config.adapts(q), config.adapts(k), config.adapts(q.replace("q_", "xq_"))];
    };
    expect(adapts({})).toEqual([true, true, false]);
    expect(adapts({ target_modules: [q] })).toEqual([true, false, false]);
    expect(adapts({ target_modules: "all-linear" })).toEqual([true, true, true]);
    expect(adapts({ target_modules: ".*\\.q_proj" })).toEqual([true, false, false]);
    expect(adapts({ target_modules: "q_proj" })).toEqual([false, false, false]);
    expect(adapts({ exclude_modules: ["self_attn.q_proj"] })).toEqual([false, true, false]);
    expect(adapts({ layers_to_transform: 1 })).toEqual([false, true, false]);
    expect(adapts({ layers_to_transform: [0, 5] })).toEqual([true, false, false]);
  });
});

describe("refused, by name", () => {
  const fields: [object, RegExp][] = [
    [{ use_dora: true }, /use_dora is true, not false: nothing else is computed here\. Fix: /],
    [{ bias: "lora_only" }, /bias is "lora_only", not "none"/],
    [{ lora_bias: true }, /lora_bias is true/],
    [{ modules_to_save: ["lm_head"] }, /modules_to_save is \["lm_head"\], not null/],
    [{ peft_type: "IA3" }, /peft_type is "IA3", not "LORA"/],
    [{ layer_replication: [[0, 1]] }, /layer_replication is/],
    [{ target_parameters: ["experts"] }, /target_parameters is/],
    [{ trainable_token_indices: [3] }, /trainable_token_indices is/],
    [{ layers_pattern: "blocks" }, /layers_pattern is/],
    [{ layers_to_transform: ["0"] }, /layers_to_transform is \["0"\], not a list of whole numbers/],
    [{ r: 0 }, /r is 0, not a whole number above 0/],
    [{ r: undefined }, /r is missing/],
    [{ lora_alpha: "8" }, /lora_alpha is "8", not a number/],
    [{ use_rslora: 1 }, /use_rslora is 1, not true or false/],
    [{ rank_pattern: { q_proj: 1.5 } }, /rank_pattern\.q_proj is 1\.5/],
    [{ alpha_pattern: [1] }, /alpha_pattern is \[1\], not an object/],
    [{ rank_pattern: { "(": 1 } }, /rank_pattern is .* patterns that JavaScript reads/],
    [{ target_modules: [1] }, /target_modules is \[1\], not a list of names/],
    [{ target_modules: "[" }, /target_modules is "\[", not made of patterns/],
    [{ target_modules: ["qkv"] }, /no linear layer qkv to adapt/],
    [{ target_modules: [...llamaTargets, "lm_head"] }, /no linear layer lm_head to adapt/],
    [{ target_modules: ["q_proj"] }, /configuration names no linear layer .*k_proj\.lora_A/],
    [{ target_modules: null }, /configuration names no linear layer/],
    [{ r: 5 }, /q_proj\.lora_A\.weight is \[4, 16\], and \[5, 16\] is wanted/],
  ];
  test.each(fields)("%j", async (given, said) => {
    const loading = Engine.load(path, { adapters: { it: at(given) } });
    const error: unknown = await loading.catch((reason) => reason);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(said);
  });

  const q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
  const whole = adapterTensors(adapter);
  const { [q]: one, ...others } = whole;
  const more = (name: string, tensor: SafeTensor = one) => ({ ...whole, [name]: tensor });
  const tensors: [string, Record<string, SafeTensor>, RegExp][] = [
    [
      "a tensor that is missing",
      others,
      /it has no tensor .*q_proj\.lora_A\.weight, and \[4, 16\]/,
    ],
    ["no tensor", {}, /it has no tensors/],
    ["another shape", more(q, { ...one, shape: [16, 4] }), /q_proj\.lora_A\.weight is \[16, 4\]/],
    ["whole numbers", more(q, { ...one, dtype: "I32" }), /q_proj\.lora_A\.weight is I32\. Fix: /],
    ["DoRA", more(q.replace("lora_A.weight", "lora_magnitude_vector")), /is DoRA's magnitudes/],
    ["a bias", more(q.replace("A.weight", "B.bias")), /is a bias/],
    ["an embedding", more("base_model.model.model.lora_embedding_A"), /an adapter of an embedding/],
    ["a whole weight", more("base_model.model.lm_head.weight"), /is no matrix of low rank/],
    ["a layer more", more(q.replace("s.0", "s.2")), /the model has no linear layer .*layers\.2/],
  ];
  test.each(tensors)("%s", async (_, given, said) => {
    const lora = writeAdapter(join(folder, "it"), adapter, given);
    await using engine = await Engine.load(path);
    const error: unknown = await engine.loadAdapter("it", lora).catch((reason) => reason);
    expect(error).toBeInstanceOf(CheckpointError);
    expect(String(error)).toMatch(said);
    expect(engine.adapters).toEqual([]);
  });

  test("a folder that is none, and a name that is taken", async () => {
    await using engine = await Engine.load(path, { adapters: { it: at({}) } });
    const wrong: [string, unknown, RegExp][] = [
      ["other", "/absent", /adapter_config\.json: it is missing/],
      ["other", "", /adapter must be a folder/],
      ["other", 7, /adapter must be a folder/],
      ["it", at({}), /a name that no other has/],
    ];
    for (const [name, given, said] of wrong)
      expect(await engine.loadAdapter(name, given as string).catch(String)).toMatch(said);
    const odd = Engine.load(path, { adapters: { it: 5 } as never });
    expect(await odd.catch(String)).toMatch(/OptionError: adapters/);
  });
});

sweep("damaged adapters load or are refused", { slice: 60, whole: 4000 }, async (seed, cases) => {
  const random = seeded(seed);
  await using engine = await Engine.load(path, { pages: 4 });
  const config = new TextEncoder().encode(JSON.stringify(adapter.config));
  const tensors = safetensorsBytes(adapterTensors(adapter));
  // Where both files say what they hold; what comes behind are numbers.
  const header =
    tensors.length -
    Object.values(adapterTensors(adapter)).reduce((sum, { bytes }) => sum + bytes.length, 0);
  const damaged = (whole: Uint8Array, most: number) => {
    const bytes = whole.slice(0, random.chance(0.3) ? random.integer(0, whole.length) : undefined);
    for (let flips = random.integer(1, 3); flips > 0 && bytes.length > 0; flips--)
      bytes[random.integer(0, Math.min(most, bytes.length) - 1)] = random.integer(0, 255);
    return bytes;
  };
  let loaded = 0;
  for (let i = 0; i < cases; i++) {
    const inConfig = random.chance(0.5);
    const it = at({});
    if (inConfig) writeFileSync(join(it, "adapter_config.json"), damaged(config, config.length));
    else writeFileSync(join(it, "adapter_model.safetensors"), damaged(tensors, header + 40));
    try {
      await engine.loadAdapter("it", it);
      loaded++;
      await engine
        .generate({ tokens: [1, 2], adapter: "it", maxTokens: 1 })
        .text()
        .catch(() => {});
      await engine.unloadAdapter("it");
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
    }
  }
  expect(loaded).toBeLessThan(cases);
});
