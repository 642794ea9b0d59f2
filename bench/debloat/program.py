"""What a CPU does with PyTorch: products, attention, a convolution and training steps. Prints a
hash of every bit of the results."""

import hashlib

import torch
from torch.nn import functional

torch.manual_seed(0)
torch.set_num_threads(2)

layer = torch.nn.TransformerEncoderLayer(64, 4, batch_first=True)
optimizer = torch.optim.AdamW(layer.parameters())
tokens = torch.randn(8, 16, 64)
losses = []
for _ in range(2):
    loss = layer(tokens).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss)

query = torch.randn(2, 4, 32, 16)
results = [
    torch.randn(128, 256) @ torch.randn(256, 64),
    functional.scaled_dot_product_attention(query, query, query),
    functional.scaled_dot_product_attention(query.bfloat16(), query.bfloat16(), query.bfloat16()),
    torch.nn.Conv2d(3, 8, 3)(torch.randn(1, 3, 16, 16)),
    torch.linalg.svd(torch.randn(20, 20))[1],
    *losses,
    *layer.parameters(),
]
digest = hashlib.sha256()
for result in results:
    words = result.detach().contiguous().reshape(-1).view(torch.uint8)
    digest.update(bytes(words.tolist()))
print(torch.__version__, losses[-1].item(), digest.hexdigest())
