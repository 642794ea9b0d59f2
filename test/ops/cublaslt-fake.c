// A library with cuBLASLt's names: tests of how it is called, without NVIDIA's GPU. It looks at
// each call's arguments and queues the product, as its descriptors alone say it, on the emulated
// GPU, whose memory is the host's. What is wrong is kept for fake_complaint(); fake_fail() lets a
// call fail, fake_live() counts what was created and not destroyed, FAKE_CUBLASLT_VERSION makes it
// old.
#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ok = 0, not_initialized = 1, invalid_value = 7, not_supported = 15 };
enum { f32 = 0, f16 = 2, bf16 = 14, e4m3 = 28, e5m2 = 29 };
enum { magic_handle = 11, magic_desc, magic_layout, magic_preference };

typedef struct { int magic; } Handle;
typedef struct {
  int magic, transpose, epilogue, bias_type;
  uint64_t bias, scale_a, scale_b;
} Desc;
typedef struct { int magic, type; uint64_t rows, columns; int64_t ld; } Layout;
typedef struct {
  int magic;
  uint32_t reductions, alignment[4];
  uint64_t workspace;
} Preference;
typedef struct { uint64_t data[8]; } Algorithm;
typedef struct {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} Choice;
_Static_assert(sizeof(Choice) == 96, "as in cublasLt.h");

static char complaint[256], failing[64];
static int fail_at, fail_status, live, calls_of_matmul, calls_of_heuristic;

static int wrong(const char *format, ...) {
  va_list list;
  va_start(list, format);
  if (!complaint[0]) vsnprintf(complaint, sizeof complaint, format, list);
  va_end(list);
  return invalid_value;
}

// 0, or what a call of this name shall answer now.
static int failure(const char *name) {
  if (strcmp(name, failing) || fail_at-- != 0) return ok;
  failing[0] = 0;
  return fail_status;
}
#define ENTER int failed = failure(__func__); if (failed) return failed

// --- for the tests

void fake_reset(void) { complaint[0] = failing[0] = 0; calls_of_matmul = calls_of_heuristic = 0; }
void fake_fail(const char *name, int call, int status) {
  snprintf(failing, sizeof failing, "%s", name);
  fail_at = call, fail_status = status;
}
int fake_live(void) { return live; }
int fake_matmuls(void) { return calls_of_matmul; }
int fake_heuristics(void) { return calls_of_heuristic; }
const char *fake_complaint(void) { return complaint; }

// --- objects

size_t cublasLtGetVersion(void) {
  const char *given = getenv("FAKE_CUBLASLT_VERSION");
  return given ? atol(given) : 130100;
}

const char *cublasLtGetStatusName(int status) {
  switch (status) {
    case 1: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3: return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7: return "CUBLAS_STATUS_INVALID_VALUE";
    case 13: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 15: return "CUBLAS_STATUS_NOT_SUPPORTED";
    default: return "CUBLAS_STATUS_OTHER";
  }
}

static void *made(size_t bytes, int magic) {
  int *object = calloc(1, bytes);
  *object = magic;
  live++;
  return object;
}
static int destroyed(void *object, int magic) {
  if (!object || *(int *)object != magic) return wrong("destroyed twice, or never made");
  *(int *)object = 0;
  live--;
  free(object);
  return ok;
}

typedef int (*HostFunction)(void *, void (*)(void *), void *);
typedef int (*Find)(const char *, void **, int, uint64_t, int *);
static HostFunction queue;

int cublasLtCreate(Handle **out) {
  ENTER;
  void *driver = dlopen("libcuda-emulated.so", RTLD_NOW | RTLD_NOLOAD);
  Find find = driver ? (Find)dlsym(driver, "cuGetProcAddress_v2") : 0;
  int found = 0;
  if (!find || find("cuLaunchHostFunc", (void **)&queue, 12040, 0, &found)) return not_initialized;
  *out = made(sizeof(Handle), magic_handle);
  return ok;
}
int cublasLtDestroy(Handle *handle) { return destroyed(handle, magic_handle); }

int cublasLtMatmulDescCreate(Desc **out, int compute, int scale) {
  ENTER;
  if (compute != 68 || scale != f32) return wrong("computes in %d, scales in %d", compute, scale);
  *out = made(sizeof(Desc), magic_desc);
  (*out)->epilogue = 1;
  (*out)->bias_type = -1;
  return ok;
}
int cublasLtMatmulDescDestroy(Desc *desc) { return destroyed(desc, magic_desc); }
int cublasLtMatmulDescSetAttribute(Desc *desc, int which, const void *value, size_t bytes) {
  ENTER;
  void *field = which == 3 ? (void *)&desc->transpose : which == 7 ? (void *)&desc->epilogue :
    which == 8 ? (void *)&desc->bias : which == 17 ? (void *)&desc->scale_a :
    which == 18 ? (void *)&desc->scale_b : which == 26 ? (void *)&desc->bias_type : 0;
  const size_t size = which == 8 || which == 17 || which == 18 ? 8 : 4;
  if (desc->magic != magic_desc || !field || bytes != size)
    return wrong("attribute %d of %zu bytes of a description", which, bytes);
  memcpy(field, value, bytes);
  return ok;
}

int cublasLtMatrixLayoutCreate(Layout **out, int type, uint64_t rows, uint64_t columns,
                               int64_t ld) {
  ENTER;
  if (!rows || !columns || ld < (int64_t)rows)
    return wrong("a matrix [%zu, %zu] by %zd", (size_t)rows, (size_t)columns, (ssize_t)ld);
  *out = made(sizeof(Layout), magic_layout);
  **out = (Layout){magic_layout, type, rows, columns, ld};
  return ok;
}
int cublasLtMatrixLayoutDestroy(Layout *layout) { return destroyed(layout, magic_layout); }

int cublasLtMatmulPreferenceCreate(Preference **out) {
  ENTER;
  *out = made(sizeof(Preference), magic_preference);
  for (int i = 0; i < 4; i++) (*out)->alignment[i] = 256;
  return ok;
}
int cublasLtMatmulPreferenceDestroy(Preference *p) { return destroyed(p, magic_preference); }
int cublasLtMatmulPreferenceSetAttribute(Preference *p, int which, const void *value,
                                         size_t bytes) {
  ENTER;
  void *field = which == 1 ? (void *)&p->workspace : which == 3 ? (void *)&p->reductions :
    which >= 5 && which <= 8 ? (void *)&p->alignment[which - 5] : 0;
  if (p->magic != magic_preference || !field || bytes != (which == 1 ? 8 : 4))
    return wrong("attribute %d of %zu bytes of a preference", which, bytes);
  memcpy(field, value, bytes);
  return ok;
}

// --- products

static int is_fp8(int type) { return type == e4m3 || type == e5m2; }

// By the table of types at cublasLtMatmul in the manual of 13.1.
static int takes(const Desc *desc, const Layout *a, const Layout *b, const Layout *c,
                 const Layout *d) {
  if (c->type != d->type) return 0;
  const int fp8 = is_fp8(a->type) && is_fp8(b->type);
  if (fp8 && (a->type == e5m2 && b->type == e5m2)) return 0;
  if (!fp8 && (a->type != b->type || is_fp8(a->type))) return 0;
  if (d->type != f32 && d->type != f16 && d->type != bf16) return 0;
  if (!fp8 && d->type != a->type && d->type != f32) return 0;
  // Matrices of fp8 have dimensions of 16 bytes, and the first is transposed.
  if (fp8 && (a->rows % 16 || a->columns % 16 || a->ld % 16 || b->ld % 16 || !desc->transpose))
    return 0;
  if (desc->epilogue == 1) return 1;
  const int bias = fp8 && d->type == f32 ? bf16 : d->type;
  return desc->epilogue == 4 && desc->bias && desc->bias_type == bias;
}

static uint64_t mixed(const Desc *desc, Layout *const *layouts) {
  uint64_t mix = desc->epilogue * 31 + desc->bias_type;
  for (int i = 0; i < 4; i++) {
    const Layout *l = layouts[i];
    mix = mix * 1099511628211u + l->type + l->rows * 7 + l->columns * 131 + l->ld * 8191;
  }
  return mix;
}

static int agree(const Desc *desc, const Layout *a, const Layout *b, const Layout *c,
                 const Layout *d) {
  if (desc->magic != magic_desc) return 0;
  const Layout *all[4] = {a, b, c, d};
  for (int i = 0; i < 4; i++) if (all[i]->magic != magic_layout) return 0;
  const uint64_t m = desc->transpose ? a->columns : a->rows;
  const uint64_t k = desc->transpose ? a->rows : a->columns;
  return k == b->rows && m == c->rows && m == d->rows && b->columns == c->columns &&
    b->columns == d->columns;
}

static const size_t needed_workspace = 1000;

int cublasLtMatmulAlgoGetHeuristic(Handle *handle, Desc *desc, Layout *a, Layout *b, Layout *c,
                                   Layout *d, Preference *preference, int asked, Choice *out,
                                   int *count) {
  ENTER;
  calls_of_heuristic++;
  if (handle->magic != magic_handle || preference->magic != magic_preference || asked < 1)
    return wrong("a heuristic of what is not there");
  if (!agree(desc, a, b, c, d)) return wrong("a heuristic of matrices that do not fit");
  *count = 0;
  if (!takes(desc, a, b, c, d)) return not_supported;
  if (is_fp8(a->type) && (!desc->scale_a || !desc->scale_b)) return wrong("fp8 without scales");
  if (is_fp8(a->type) && (preference->alignment[0] < 16 || preference->alignment[1] < 16))
    return not_supported;
  if (preference->reductions != 2) return wrong("sums that are rounded before they are added");
  if (preference->workspace < needed_workspace) return wrong("a workspace of few bytes");
  Layout *const layouts[4] = {a, b, c, d};
  *out = (Choice){.workspace = needed_workspace, .state = failure("state")};
  out->algorithm.data[0] = mixed(desc, layouts);
  for (int i = 0; i < 4; i++) out->algorithm.data[1 + i] = preference->alignment[i];
  *count = 1;
  return ok;
}

typedef struct {
  Desc desc;
  Layout layout[4];
  const char *matrix[4];
  char *workspace;
  float alpha, beta;
} Job;

static int bytes_of(int type) { return type == f32 ? 4 : is_fp8(type) ? 1 : 2; }

static float read_at(int type, const char *p) {
  if (type == f32) return *(const float *)p;
  if (type == f16) return (float)*(const _Float16 *)p;
  if (type == bf16) {
    const uint32_t bits = (uint32_t)*(const uint16_t *)p << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
  }
  const int code = *(const uint8_t *)p, wide = type == e4m3 ? 3 : 2;
  const int exponent = (code & 127) >> wide, part = code & ((1 << wide) - 1);
  const int bias = type == e4m3 ? 7 : 15;
  const float sign = code & 128 ? -1 : 1;
  if (type == e4m3 && (code & 127) == 127) return NAN;
  if (type == e5m2 && exponent == 31) return part ? NAN : sign * INFINITY;
  return sign * (exponent ? ldexpf((float)(part + (1 << wide)), exponent - bias - wide)
                          : ldexpf((float)part, 1 - bias - wide));
}

static void write_at(int type, char *p, float value) {
  if (type == f32) *(float *)p = value;
  else if (type == f16) *(_Float16 *)p = (_Float16)value;
  else {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    *(uint16_t *)p = isnan(value) ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  }
}

// Element [row, column], column by column.
static const char *at(const Job *job, int which, uint64_t row, uint64_t column) {
  const Layout *l = &job->layout[which];
  return job->matrix[which] + (row + column * l->ld) * bytes_of(l->type);
}

static void multiply(void *argument) {
  const Job *job = argument;
  memset(job->workspace, 0x5a, needed_workspace);
  const Layout *layout = job->layout;
  const int fp8 = is_fp8(layout[0].type);
  const double scale = fp8 ? *(float *)job->desc.scale_a * (double)*(float *)job->desc.scale_b : 1;
  for (uint64_t column = 0; column < layout[3].columns; column++)
    for (uint64_t row = 0; row < layout[3].rows; row++) {
      double sum = 0;
      for (uint64_t k = 0; k < layout[1].rows; k++) {
        const char *a = job->desc.transpose ? at(job, 0, k, row) : at(job, 0, row, k);
        sum += (double)read_at(layout[0].type, a) * read_at(layout[1].type, at(job, 1, k, column));
      }
      sum *= job->alpha * scale;
      if (job->beta != 0) sum += job->beta * read_at(layout[2].type, at(job, 2, row, column));
      if (job->desc.epilogue == 4) {
        const int type = job->desc.bias_type;
        sum += read_at(type, (const char *)job->desc.bias + row * bytes_of(type));
      }
      write_at(layout[3].type, (char *)at(job, 3, row, column), (float)sum);
    }
}

int cublasLtMatmul(Handle *handle, Desc *desc, const float *alpha, const char *a, Layout *la,
                   const char *b, Layout *lb, const float *beta, const char *c, Layout *lc,
                   char *d, Layout *ld, const Algorithm *algorithm, char *workspace,
                   size_t bytes, void *stream) {
  ENTER;
  calls_of_matmul++;
  if (handle->magic != magic_handle || !agree(desc, la, lb, lc, ld))
    return wrong("a product of matrices that do not fit");
  Layout *const layouts[4] = {la, lb, lc, ld};
  if (algorithm->data[0] != mixed(desc, layouts)) return wrong("an algorithm of another product");
  const char *const matrices[4] = {a, b, c, d};
  for (int i = 0; i < 4; i++)
    if ((uintptr_t)matrices[i] % algorithm->data[1 + i]) return wrong("matrix %d lies askew", i);
  if (bytes < needed_workspace || (uintptr_t)workspace % 256) return wrong("no workspace");
  if (d == c && (lc->ld != ld->ld || lc->type != ld->type)) return wrong("C is D, and differs");
  // A graph runs it again and again: it stays.
  Job *job = malloc(sizeof(Job));
  *job = (Job){*desc, {*la, *lb, *lc, *ld}, {a, b, c, d}, workspace, *alpha, *beta};
  return queue(stream, multiply, job) == 0 ? ok : wrong("the stream takes nothing");
}
