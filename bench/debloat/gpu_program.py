"""What a GPU does with PyTorch: products, attention, a transformer and a convolution in training.
Writes times, memory and a hash of every bit of the results to the file that it is given."""

import time

started = time.monotonic()

import hashlib
import json
import os
import sys

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

import torch
from torch.nn import functional

imported = time.monotonic()

torch.manual_seed(0)
torch.use_deterministic_algorithms(True)
torch.backends.cudnn.benchmark = False
device = torch.device("cuda")

layer = torch.nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True).to(device).eval()
convolutions = torch.nn.Sequential(
    torch.nn.Conv2d(3, 32, 3),
    torch.nn.BatchNorm2d(32),
    torch.nn.ReLU(),
    torch.nn.Conv2d(32, 64, 3),
    torch.nn.Flatten(),
    torch.nn.LazyLinear(10),
).to(device)
images = torch.randn(16, 3, 32, 32, device=device)
labels = torch.randint(0, 10, (16,), device=device)
tokens = torch.randn(8, 128, 512, device=device)
convolutions(images)
optimizer = torch.optim.AdamW(convolutions.parameters())
results = []


def step():
    with torch.no_grad():
        hidden = layer(tokens)
        half = hidden.bfloat16().view(8, 128, 8, 64).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(half, half, half, is_causal=True)
        product = attended.flatten(1) @ attended.flatten(1).T
    loss = functional.cross_entropy(convolutions(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    results.extend([hidden, attended, product, loss.detach()])
    torch.cuda.synchronize()


step()
first = time.monotonic()
for _ in range(20):
    step()
looped = time.monotonic()

digest = hashlib.sha256()
for result in [*results, *convolutions.parameters()]:
    digest.update(result.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes())
free, total = torch.cuda.mem_get_info()
# getrusage would count what the process held before it became this program.
with open("/proc/self/status") as file:
    peak = next(line for line in file if line.startswith("VmHWM:"))
report = {
    "hash": digest.hexdigest(),
    "importSeconds": imported - started,
    "firstUseSeconds": first - imported,
    "loopSeconds": looped - first,
    "peakHostBytes": int(peak.split()[1]) * 1024,
    "gpuBytes": total - free,
}
with open(sys.argv[1], "w") as file:
    json.dump(report, file)
