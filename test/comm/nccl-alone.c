// A library with NCCL's names for ranks of one: tests of how NCCL is called, without a GPU. What it
// exchanges it copies, by the driver that FLASHBUN_LIBCUDA names; FAKE_NCCL_VERSION makes it old,
// FAKE_NCCL_FAILS (the count of operations that work) makes it fail, and with FAKE_NCCL_WAITS it
// waits for a rank that does not come.
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { char bytes[128]; } Id;
typedef struct { int rank, ranks, failed; long left; } Comm;
typedef int (*Copy)(uint64_t, uint64_t, size_t, void *);
typedef int (*Find)(const char *, void **, int, uint64_t, int *);

static Copy copy;
static const int bytes_of[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

int ncclGetVersion(int *version) {
  const char *given = getenv("FAKE_NCCL_VERSION");
  *version = given ? atoi(given) : 22809;
  return 0;
}

int ncclGetUniqueId(Id *id) {
  for (int i = 0; i < 128; i++) id->bytes[i] = (char)(i * 3 + 1);
  return 0;
}

int ncclCommInitRank(Comm **comm, int ranks, Id id, int rank) {
  for (int i = 0; i < 128; i++) if (id.bytes[i] != (char)(i * 3 + 1)) return 4;
  if (ranks != 1 || rank != 0) return 5;
  if (getenv("FAKE_NCCL_WAITS")) sleep(60);
  void *driver = dlopen(getenv("FLASHBUN_LIBCUDA"), RTLD_NOW);
  if (!driver) return 2;
  Find find = (Find)dlsym(driver, "cuGetProcAddress_v2");
  int found = 0;
  if (!find || find("cuMemcpyAsync", (void **)&copy, 12040, 0, &found)) return 2;
  const char *fails = getenv("FAKE_NCCL_FAILS");
  *comm = malloc(sizeof(Comm));
  **comm = (Comm){rank, ranks, 0, fails ? atol(fails) : -1};
  return 0;
}

static int exchange(uint64_t from, uint64_t to, size_t count, int type, Comm *comm, void *stream) {
  if (comm->left == 0) comm->failed = 6;
  if (comm->failed) return comm->failed;
  comm->left--;
  return from == to || count == 0 ? 0 : copy(to, from, count * bytes_of[type], stream);
}

int ncclAllReduce(uint64_t s, uint64_t t, size_t n, int type, int op, Comm *c, void *stream) {
  return op == 0 || op == 3 ? exchange(s, t, n, type, c, stream) : 4;
}
int ncclReduceScatter(uint64_t s, uint64_t t, size_t n, int type, int op, Comm *c, void *stream) {
  return op == 0 ? exchange(s, t, n, type, c, stream) : 4;
}
int ncclAllGather(uint64_t s, uint64_t t, size_t n, int type, Comm *c, void *stream) {
  return exchange(s, t, n, type, c, stream);
}
int ncclBroadcast(uint64_t s, uint64_t t, size_t n, int type, int root, Comm *c, void *stream) {
  return root == 0 ? exchange(s, t, n, type, c, stream) : 4;
}

static uint64_t sent;
int ncclSend(uint64_t s, size_t n, int type, int peer, Comm *c, void *stream) {
  sent = s;
  return peer == 0 ? 0 : 4;
}
int ncclRecv(uint64_t t, size_t n, int type, int peer, Comm *c, void *stream) {
  return peer == 0 ? exchange(sent, t, n, type, c, stream) : 4;
}
int ncclGroupStart(void) { return 0; }
int ncclGroupEnd(void) { return 0; }
int ncclCommGetAsyncError(Comm *comm, int *result) { return *result = comm->failed, 0; }
int ncclCommAbort(Comm *comm) { return comm->failed = 5, 0; }
int ncclCommDestroy(Comm *comm) { return free(comm), 0; }
const char *ncclGetErrorString(int result) {
  return result == 6 ? "remote process exited" : "an error";
}
const char *ncclGetLastError(Comm *comm) { return "a rank is gone"; }
