// Kernels that need what cubins hold besides code: constants, variables, functions and pointers.
#include <cstdio>

__constant__ float weights[64];
__device__ int hits;

__device__ __noinline__ float square(float x) { return x * x + weights[int(x) & 63]; }
__device__ __noinline__ float cube(float x) { return square(x) * x; }
__device__ float (*chosen)(float) = square;

extern "C" __global__ void scale(float *p, float by) { p[threadIdx.x] *= by; }

extern "C" __global__ void count(const float *p) {
  if (p[threadIdx.x] > 0) atomicAdd(&hits, 1);
}

extern "C" __global__ void cubes(float *p) { p[threadIdx.x] = cube(p[threadIdx.x]); }

extern "C" __global__ void indirect(float *p) { p[threadIdx.x] = chosen(p[threadIdx.x]); }

extern "C" __global__ void speak(const float *p) { printf("%f\n", p[0]); }

template <int size>
__global__ void reverse(float *p) {
  __shared__ float values[size];
  values[threadIdx.x] = p[threadIdx.x];
  __syncthreads();
  p[threadIdx.x] = values[size - 1 - threadIdx.x];
}

template __global__ void reverse<32>(float *);
template __global__ void reverse<64>(float *);
