"""Transformers: a Llama shape with random weights, generation or a training step.

llama.py generate|train REPORT"""

import os
import sys
import time

import report

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

import torch
from transformers import LlamaConfig, LlamaForCausalLM

imported = time.monotonic()
torch.manual_seed(0)
torch.use_deterministic_algorithms(True)
device = "cuda" if torch.cuda.is_available() else "cpu"
config = LlamaConfig(
    vocab_size=4096,
    hidden_size=1024,
    intermediate_size=2816,
    num_hidden_layers=8,
    num_attention_heads=16,
    num_key_value_heads=4,
)
model = LlamaForCausalLM(config).to(device, torch.bfloat16)
tokens = torch.randint(0, 4096, (4, 64), device=device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def step():
    if sys.argv[1] == "generate":
        with torch.no_grad():
            made = model.generate(tokens, max_new_tokens=16, do_sample=False, pad_token_id=0)
        return [made.cpu().numpy().tobytes()]
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    weights = [weight.detach().float().cpu().numpy().tobytes() for weight in model.parameters()]
    return [loss.detach().float().cpu().numpy().tobytes(), *weights]


report.run(step, imported, 5 if device == "cuda" else 1)
