"""CuPy: linear algebra or Fourier transforms.

cupy_math.py linalg|fft REPORT"""

import sys
import time

import report

import cupy

imported = time.monotonic()
cupy.random.seed(0)
matrix = cupy.random.standard_normal((512, 512))
signal = cupy.random.standard_normal((64, 4096)) + 1j


def step():
    if sys.argv[1] == "fft":
        results = [cupy.fft.fft(signal), cupy.fft.fft2(matrix), cupy.fft.rfft(matrix)]
    else:
        symmetric = matrix @ matrix.T
        results = [symmetric, *cupy.linalg.qr(matrix), cupy.linalg.eigvalsh(symmetric)]
        results.append(cupy.linalg.solve(symmetric + cupy.eye(512), matrix))
    return [cupy.asnumpy(result).tobytes() for result in results]


report.run(step, imported)
