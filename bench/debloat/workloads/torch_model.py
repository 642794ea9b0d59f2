"""PyTorch: MobileNetV2 or a Transformer, inference or training.

torch_model.py mobilenet|transformer infer|train REPORT"""

import os
import sys
import time

import report

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

import torch
from torch import nn

imported = time.monotonic()
torch.manual_seed(0)
torch.use_deterministic_algorithms(True)
device = "cuda" if torch.cuda.is_available() else "cpu"


class Inverted(nn.Module):
    """A block of MobileNetV2 (Sandler et al. 2018): widened, filtered by channel, narrowed."""

    def __init__(self, inputs, outputs, stride, widening):
        super().__init__()
        wide = inputs * widening
        self.adds = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x):
        return x + self.layers(x) if self.adds else self.layers(x)


def mobilenet():
    blocks = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    channels = 32
    for widening, outputs, count, stride in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:
        for at in range(count):
            blocks.append(Inverted(channels, outputs, stride if at == 0 else 1, widening))
            channels = outputs
    blocks += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


def transformer():
    layer = nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 6), nn.Linear(512, 1000))


kind, way = sys.argv[1:3]
model = {"mobilenet": mobilenet, "transformer": transformer}[kind]().to(device)
shape = (16, 3, 224, 224) if kind == "mobilenet" else (8, 128, 512)
inputs = torch.randn(shape, device=device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def bytes_of(tensors):
    for tensor in tensors:
        yield tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes()


def step():
    if way == "infer":
        model.eval()
        with torch.no_grad():
            return bytes_of([model(inputs)])
    loss = model(inputs).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return bytes_of([loss, *model.parameters()])


report.run(step, imported, 20 if device == "cuda" else 1)
