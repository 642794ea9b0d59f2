"""Writes smollm2-golden.json: what transformers makes of SmolLM2's file in f32, greedily.

    pip install transformers==5.24.0 torch gguf && python test/engine/smollm2_golden.py FILE.gguf

FILE.gguf is the one that `fetchSmolLm2` fetches; its weights are unpacked to f32 once. The file
holds prompts, their token ids, the greedy tokens, and the largest logits after the prompt.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

PROMPTS = [
    "What is the capital of Italy?",
    "Name the four seasons.",
    "How many legs does a spider have?",
    "Write one sentence about bread.",
    "What is 7 times 8?",
    "Say hello in French.",
    "Who painted the Mona Lisa?",
    "What colour is the sky on Mars?",
    "Explain rain in one sentence.",
    "List three fruits.",
    "What is the boiling point of water in °C?",
    "Übersetze 'Danke' ins Englische.",
    "Write a function in Python that adds two numbers.",
    "What comes after Tuesday?",
    "Is the number 17 prime?",
    "Give me a name for a cat.",
    "What is the opposite of 'cold'?",
    "日本の首都は？",
    "Complete: roses are red,",
    "Write an e-mail of two lines to a landlord about a leak.",
]
STEPS = 32

folder, file = Path(sys.argv[1]).parent, Path(sys.argv[1]).name
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=file, dtype=torch.float32
).eval()
answers = []
for prompt in PROMPTS:
    turns = [dict(role="user", content=prompt)]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens, margin, top = list(ids), float("inf"), None
    with torch.no_grad():
        out = model(torch.tensor([ids]), use_cache=True)
        while True:
            logits = out.logits[0, -1].double()
            best = torch.topk(logits, 5)
            top = top or [best.indices.tolist(), [round(x, 4) for x in best.values.tolist()]]
            margin = min(margin, float(best.values[0] - best.values[1]))
            tokens.append(int(best.indices[0]))
            if tokens[-1] == 2 or len(tokens) == len(ids) + STEPS:
                break
            out = model(torch.tensor([tokens[-1:]]), past_key_values=out.past_key_values)
    print(round(margin, 4), repr(tokenizer.decode(tokens[len(ids) :])))
    answers.append(dict(
        prompt=prompt, ids=ids, tokens=tokens[len(ids) :], margin=round(margin, 4),
        top=dict(tokens=top[0], logits=top[1]),
    ))
text = json.dumps(dict(transformers=transformers.__version__, answers=answers), ensure_ascii=False)
Path(__file__).with_name("smollm2-golden.json").write_text(text + "\n")
