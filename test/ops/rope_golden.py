"""Writes rope-golden.json: rates of rotary pairs and attention factors as transformers has them.

    pip install transformers==4.57.1 numpy && python test/ops/rope_golden.py

Its formulas run unchanged; a few lines of numpy in f64 stand in for torch.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy
from transformers import PretrainedConfig, modeling_rope_utils as rope


class Array(numpy.ndarray):
    def to(self, *_, **__):
        return self.astype(numpy.float64).view(Array)

    float = to


def tensor(values, **_):
    return numpy.array(values, dtype=numpy.float64).view(Array)


rope.torch = SimpleNamespace(
    Tensor=Array, int64=None, float=None, float32=None,
    arange=lambda *limits, **_: tensor(numpy.arange(*limits)),
    tensor=tensor, clamp=numpy.clip, where=numpy.where,
)

long = [1 + i * i / 9 for i in range(12)]
short = [1 + i / 50 for i in range(12)]
yarn = {"rope_type": "yarn", "original_max_position_embeddings": 4096}
llama3 = {"low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8192}
longrope = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
dynamic = {"rope_type": "dynamic", "factor": 2.5}
cases = [
    ("default", {"rope_type": "default"}, {}, None),
    ("linear", {"rope_type": "linear", "factor": 3}, {}, None),
    ("llama3", {"rope_type": "llama3", "factor": 8, **llama3}, {"rope_theta": 5e5}, None),
    ("yarn", {**yarn, "factor": 16}, {}, None),
    ("yarn, other betas", {**yarn, "factor": 4, "beta_fast": 48, "beta_slow": 0.5}, {}, None),
    ("yarn, not truncated", {**yarn, "factor": 32, "truncate": False}, {"rope_theta": 15e4}, None),
    ("yarn, mscale", {**yarn, "factor": 40, "mscale": 1.2, "mscale_all_dim": 0.7}, {}, None),
    ("yarn, equal mscales", {**yarn, "factor": 40, "mscale": 1, "mscale_all_dim": 1}, {}, None),
    ("yarn, given", {**yarn, "factor": 40, "attention_factor": 1.5}, {}, None),
    ("yarn, no factor", {**yarn, "factor": 1}, {}, None),
    ("longrope, short", longrope, {}, 4096),
    ("longrope, long", longrope, {}, 4097),
    ("longrope, given", {**longrope, "attention_factor": 1.25}, {}, 9000),
    ("dynamic, short", dynamic, {}, 100),
    ("dynamic, long", dynamic, {}, 10000),
]


def golden(name, scaling, over, length):
    config = PretrainedConfig(
        rope_theta=1e4, head_dim=24, hidden_size=96, num_attention_heads=4,
        max_position_embeddings=4096,
    )
    for key, value in over.items():
        setattr(config, key, value)
    config.rope_scaling = scaling
    kind = scaling["rope_type"]
    if kind == "longrope":
        config.original_max_position_embeddings, config.max_position_embeddings = 4096, 32768
    if kind == "default":
        make = rope._compute_default_rope_parameters
    else:
        make = rope.ROPE_INIT_FUNCTIONS[kind]
    rates, factor = make(config, "cpu", seq_len=length)
    return {"name": name, "factor": factor, "frequencies": [float(x) for x in rates]}


made = [golden(*case) for case in cases]
Path(__file__).with_name("rope-golden.json").write_text(json.dumps(made, indent=1) + "\n")
