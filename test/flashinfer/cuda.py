"""A GPU of PyTorch's that is not there: what is made for it lies on the CPU."""

import types

import torch
from torch.overrides import TorchFunctionMode
from wrappers import Recorded


def is_gpu(x):
    return isinstance(x, (str, torch.device)) and str(x).startswith("cuda")


class ToCpu(TorchFunctionMode):
    """Everything that is made for a GPU lies on the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cuda:
            return args[0]
        args = [torch.device("cpu") if is_gpu(x) else x for x in args]
        if func is torch.Tensor.to and len(args) > 1 and type(args[1]) is int:
            args[1] = torch.device("cpu")
        kwargs = {
            key: "cpu" if is_gpu(x) or (key == "device" and type(x) is int) else x
            for key, x in (kwargs or {}).items()
        }
        return func(*args, **kwargs)


class Graph:
    """A captured graph: the runs of the capture."""

    def __init__(self, *args, **kwargs):
        self.runs = []

    def replay(self):
        for call, pair in self.runs:
            for target, source in zip(pair, call()):
                target.copy_(source)


class Capture:
    def __init__(self, graph, *args, **kwargs):
        self.graph = graph

    def __enter__(self):
        Recorded.current = self.graph.runs

    def __exit__(self, *args):
        Recorded.current = None


class Nothing:
    """Streams and events, which have nothing to do here."""

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    def __getattr__(self, name):
        return lambda *args, **kwargs: self


def stand_in_for_cuda():
    cuda = torch.cuda
    cuda.is_available = lambda: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.get_device_capability = lambda *args: (9, 0)
    cuda.get_device_name = lambda *args: "CPU"
    cuda.synchronize = cuda.empty_cache = lambda *args: None
    cuda.get_device_properties = lambda *args: types.SimpleNamespace(
        total_memory=16 << 30, multi_processor_count=132, major=9, minor=0, name="CPU"
    )
    cuda.memory_reserved = cuda.memory_allocated = lambda *args: 0
    cuda.mem_get_info = lambda *args: (16 << 30, 16 << 30)
    cuda.manual_seed = cuda.manual_seed_all = lambda seed: None
    cuda.CUDAGraph, cuda.graph = Graph, Capture
    cuda.Stream = cuda.Event = cuda.stream = cuda.device = Nothing
    cuda.current_stream = cuda.default_stream = lambda *args: Nothing()
    Generator = torch.Generator
    torch.Generator = lambda device=None: Generator()
    ToCpu().__enter__()


stand_in_for_cuda()
