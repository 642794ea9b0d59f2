"""A pytest plugin that runs FlashInfer's own tests against this library's CPU device: it stands in
for the package `flashinfer`, and every call that it can say goes to server.ts. What cannot be said
is a test skipped with the reason "flashbun: ...".

Parameters are those of FlashInfer's own sources (FLASHINFER_SOURCE), read as text: none of them is
imported. Tensors for "cuda" lie on the CPU.
"""

import importlib
import importlib.machinery
import os
import re
import resource
import signal
import sys
import types

import attend
import cuda  # noqa: F401
import pytest
import torch
import wrappers
from server import NAMES, cannot, server
from theirs import SOURCE

# Some cases ask for more memory than a GPU's tests mind.
resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
MOST_SECONDS = int(os.environ.get("FLASHINFER_SECONDS", "60"))

# ---- the package

class Unsaid(types.ModuleType):
    """A module of theirs: what we have by its name, and a stub that skips for all else."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        found = OURS.get(name)
        if found is not None:
            return found
        path = os.path.join(SOURCE, *self.__name__.split("."), name)
        if os.path.exists(path) or os.path.exists(f"{path}.py"):
            return importlib.import_module(f"{self.__name__}.{name}")
        if name.endswith("Error"):
            return type(name, (Exception,), {})
        if name.startswith(("gen_", "build_", "get_", "clear_")) and "jit" in self.__name__:
            return lambda *args, **kwargs: None
        if name[0].isupper():
            return type(name, (), {"__init__": lambda *a, **k: cannot(f"{self.__name__}.{name}")})
        return lambda *args, **kwargs: cannot(f"{self.__name__}.{name}")


class Finder:
    """Makes a module of any name below flashinfer."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ("flashinfer", "tvm_ffi"):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Unsaid(spec.name)

    def exec_module(self, module):
        pass


OURS = {
    key: value
    for module in (attend, wrappers)
    for key, value in vars(module).items()
    if callable(value) and getattr(value, "__module__", "") in ("attend", "wrappers")
}
OURS["CUDAGraphBatchDecodeWithPagedKVCacheWrapper"] = wrappers.BatchDecodeWithPagedKVCacheWrapper
OURS["has_flashinfer_jit_cache"] = lambda *args: True
OURS["is_sm90a_supported"] = lambda *args: True
for other in ("100a", "110a", "12x", "120a", "121a", "100f"):
    OURS[f"is_sm{other}_supported"] = lambda *args: False
OURS["get_compute_capability"] = lambda *args: (9, 0)
OURS["get_num_sm"] = lambda *args: 132
OURS["filename_safe_dtype_map"] = {dtype: name for dtype, name in NAMES.items()}
OURS["attention_sink_decl"] = {"fa2": "", "fa3": ""}
sys.meta_path.insert(0, Finder())


# ---- what is run, and what came of it


def pytest_addoption(parser):
    help_text = "cases of each test function, at most, spread over its parameters"
    parser.addoption("--most", type=int, default=0, help=help_text)


def pytest_collection_modifyitems(config, items):
    most = config.getoption("--most")
    if most == 0:
        return
    groups = {}
    for item in items:
        groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = []
    for group in groups.values():
        count = min(most, len(group))
        kept += [group[i * len(group) // count] for i in range(count)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


# How FlashInfer words its own refusals, and what needs PyTorch's compiler.
THEIRS_ALONE = re.compile("rejects|requires_scales|keyword_only|bad_scale|torch_compile")


def pytest_runtest_setup(item):
    if THEIRS_ALONE.search(item.name):
        cannot("the words of an error, or PyTorch's compiler")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    def late(*args):
        server.stop()
        cannot(f"more than {MOST_SECONDS} s on this CPU")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    outcome = yield
    signal.alarm(0)
    if outcome.excinfo is not None and "can't allocate memory" in str(outcome.excinfo[1]):
        outcome.force_exception(pytest.skip.Exception("flashbun: more memory than is lent"))


reasons = {}


def pytest_runtest_logreport(report):
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        kind = reason if reason.startswith("flashbun: ") else "their own skips"
        reasons[kind] = reasons.get(kind, 0) + 1


def pytest_terminal_summary(terminalreporter):
    for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(f"{count:6} {reason}")
