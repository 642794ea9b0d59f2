"""JAX: a Llama shape with random weights, generation or a training step.

jax_model.py generate|train REPORT"""

import os
import sys
import time

import report

os.environ["XLA_FLAGS"] = "--xla_gpu_deterministic_ops=true"
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

import jax
import jax.numpy as jnp
import numpy

imported = time.monotonic()
width, heads, layers, words = 512, 8, 4, 4096


def weights(key):
    def matrix(rows, columns):
        nonlocal key
        key, used = jax.random.split(key)
        return jax.random.normal(used, (rows, columns), jnp.float32) * rows**-0.5

    one = lambda: {
        "qkv": matrix(width, 3 * width),
        "out": matrix(width, width),
        "gate": matrix(width, 4 * width),
        "up": matrix(width, 4 * width),
        "down": matrix(4 * width, width),
    }
    return {"words": matrix(words, width), "layers": [one() for _ in range(layers)]}


def norm(x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def forward(model, tokens):
    x = model["words"][tokens]
    count = tokens.shape[1]
    mask = jnp.tril(jnp.ones((count, count), bool))
    for layer in model["layers"]:
        q, k, v = jnp.split(norm(x) @ layer["qkv"], 3, -1)
        split = lambda t: t.reshape(*t.shape[:2], heads, -1).transpose(0, 2, 1, 3)
        scores = split(q) @ split(k).transpose(0, 1, 3, 2) * (width // heads) ** -0.5
        mixed = jax.nn.softmax(jnp.where(mask, scores, -1e9)) @ split(v)
        x = x + mixed.transpose(0, 2, 1, 3).reshape(x.shape) @ layer["out"]
        y = norm(x)
        x = x + (jax.nn.silu(y @ layer["gate"]) * (y @ layer["up"])) @ layer["down"]
    return norm(x) @ model["words"].T


def loss_of(model, tokens):
    chances = jax.nn.log_softmax(forward(model, tokens[:, :-1]))
    return -jnp.take_along_axis(chances, tokens[:, 1:, None], -1).mean()


model = weights(jax.random.key(0))
tokens = jax.random.randint(jax.random.key(1), (4, 64), 0, words)
logits = jax.jit(forward)
slopes = jax.jit(jax.value_and_grad(loss_of))


def step():
    global model, tokens
    if sys.argv[1] == "generate":
        best = jnp.argmax(logits(model, tokens)[:, -1], -1)
        tokens = jnp.concatenate([tokens[:, 1:], best[:, None]], 1)
        return [numpy.asarray(tokens).tobytes()]
    loss, slope = slopes(model, tokens)
    model = jax.tree.map(lambda weight, grad: weight - 0.01 * grad, model, slope)
    leaves = [numpy.asarray(leaf).tobytes() for leaf in jax.tree.leaves(model)]
    return [numpy.asarray(loss).tobytes(), *leaves]


report.run(step, imported, 5)
