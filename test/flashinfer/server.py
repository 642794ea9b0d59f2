"""Calls of the library: a process of it, server.ts, and a file that tensors are handed over in."""

import json
import mmap
import os
import subprocess
import tempfile

import pytest
import torch

MOST_BYTES = 1 << 30
HERE = os.path.dirname(os.path.abspath(__file__))


def cannot(what):
    """The case says something that has no counterpart."""
    pytest.skip(f"flashbun: {what}")


NAMES = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "f8e4m3",
    torch.float8_e5m2: "f8e5m2",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
    torch.bool: "bool",
}


def name_of(dtype):
    if dtype not in NAMES:
        cannot(f"dtype {dtype}")
    return NAMES[dtype]


def storage(tensor):
    """The bytes from a tensor's first element to its last, as a tensor of bytes."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride()))
    flat = torch.as_strided(tensor, (last + 1,), (1,), tensor.storage_offset())
    return flat.view(torch.uint8) if flat.dtype != torch.bool else flat.to(torch.uint8)


class Server:
    """The library's process, and the file that tensors are handed over in."""

    def __init__(self):
        self.process = None
        self.file = None

    def start(self):
        command = [os.environ.get("BUN", "bun"), os.path.join(HERE, "server.ts")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def stop(self):
        """Ends the process: an answer that was not waited for would be taken for the next."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def reserve(self, size):
        if self.file is not None and size <= len(self.map):
            return
        self.file = tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="flashinfer-")
        self.file.truncate(max(size, 1 << 20) * 5 // 4)
        self.map = mmap.mmap(self.file.fileno(), 0)

    def call(self, op, inputs, outputs=(), **rest):
        """Hands tensors over, and brings back those of `outputs`, by their names in `inputs`."""
        if self.process is None:
            self.start()
        places, size = {}, 0
        given = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        for name, tensor in given.items():
            if tensor.numel() == 0:
                cannot("an empty tensor")
            size = (size + 255) // 256 * 256
            places[name] = {
                "dtype": name_of(tensor.dtype),
                "shape": list(tensor.shape),
                "strides": list(tensor.stride()),
                "at": size,
            }
            size += storage(tensor).numel()
        if size > MOST_BYTES:
            cannot("tensors of more than a gigabyte")
        self.reserve(size)
        memory = torch.frombuffer(self.map, dtype=torch.uint8)
        for name, tensor in given.items():
            data = storage(tensor)
            memory[places[name]["at"] :][: data.numel()] = data
        message = {"file": self.file.name, "op": op, "tensors": places, "settings": {}}
        message = {**message, "numbers": {}, "options": {}, "layout": {}, **rest}
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "the server ended"}')
        if self.process.poll() is not None:
            self.stop()
        if "error" in answer:
            raise ValueError(f"flashbun {answer['error']}: {answer.get('message')}")
        for name in outputs:
            data = storage(given[name])
            data.copy_(memory[places[name]["at"] :][: data.numel()])


server = Server()
