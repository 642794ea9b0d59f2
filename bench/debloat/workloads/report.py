"""What every workload says of itself, as JSON: times, memory and a hash of every bit of results."""

import hashlib
import json
import resource
import sys
import time

started = time.monotonic()


def run(step, imported, gpu_bytes, steps=20):
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
        "peakHostBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "gpuBytes": gpu_bytes(),
    }
    with open(sys.argv[-1], "w") as file:
        json.dump(report, file)
