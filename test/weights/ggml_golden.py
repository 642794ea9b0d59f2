"""
Writes ggml_golden.json: a few random blocks of each quantised format of ggml, and what gguf-py, the
reference in Python, takes out of them.

Run: pip install gguf==0.17.1 numpy, then python3 ggml_golden.py
"""

import base64
import json
from pathlib import Path

import gguf
import numpy as np

FORMATS = ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"]
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208]}

random = np.random.default_rng(20)
golden = {}
for name in FORMATS:
    kind = gguf.GGMLQuantizationType[name]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (3, size), dtype=np.uint8)
    for at in HALVES[name]:
        scales = random.normal(0, 0.1, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    values = gguf.dequantize(blocks, kind).astype(np.float32)
    golden[name] = {
        "blocks": base64.b64encode(blocks.tobytes()).decode(),
        "values": base64.b64encode(values.tobytes()).decode(),
    }
path = Path(__file__).with_suffix(".json")
path.write_text(json.dumps(golden, indent=2) + "\n")
