"""What every workload says of itself, as JSON: times, memory and a hash of every bit of results."""

import ctypes
import hashlib
import json
import sys
import time

started = time.monotonic()


def peak_host_bytes():
    """Of this program: getrusage would count what the process held before it became this one."""
    with open("/proc/self/status") as file:
        peak = next(line for line in file if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def gpu_bytes():
    """What is taken of the GPU's memory: the context, what frameworks keep, and other programs."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) != 0:
        return 0
    driver.cuCtxSetCurrent(context)
    driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    return total.value - free.value


def run(step, imported, steps=20):
    """Calls step() once and then `steps` times; it returns arrays of bytes. The last argument of
    the command line is the file for the report."""
    digest = hashlib.sha256()
    for result in step():
        digest.update(result)
    first = time.monotonic()
    for _ in range(steps):
        for result in step():
            digest.update(result)
    looped = time.monotonic()
    report = {
        "hash": digest.hexdigest(),
        "importSeconds": imported - started,
        "firstUseSeconds": first - imported,
        "loopSeconds": looped - first,
        "peakHostBytes": peak_host_bytes(),
        "gpuBytes": gpu_bytes(),
    }
    with open(sys.argv[-1], "w") as file:
        json.dump(report, file)
