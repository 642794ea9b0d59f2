/* Runs with a shrunk library and has handlers of its own: pager <library> <what> */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void *library;
static volatile int faults;
static void *volatile fault_address;
static sigjmp_buf back;

static int spare(int number) {
    char name[32];
    snprintf(name, sizeof name, "spare_%d", number);
    return ((int (*)(void))dlsym(library, name))();
}

static void *in_thread(void *ignored) {
    (void)ignored;
    for (int number = 0; number < 4000; number += 7)
        if (spare(number) != number) abort();
    return 0;
}

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    faults++;
    fault_address = info->si_addr;
    if (spare(3000 + faults) != 3000 + faults) abort();
    siglongjmp(back, 1);
}

static void handle(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action, old;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | flags;
    if (sigaction(number, &action, 0) || sigaction(number, 0, &old)) abort();
    if (old.sa_sigaction != handler || !(old.sa_flags & SA_SIGINFO)) abort();
}

static void expect_fault(void *address, int write) {
    int before = faults;
    if (!sigsetjmp(back, 1)) {
        if (write) *(volatile char *)address = 1;
        else (void)*(volatile char *)address;
        abort();
    }
    if (faults != before + 1 || fault_address != address) abort();
}

static int deep(int depth) {
    volatile char room[4096];
    room[0] = depth;
    return depth > 1 << 20 ? room[0] : deep(depth + 1) + room[0];
}

static void own_faults(void) {
    handle(SIGSEGV, on_fault, SA_NODEFER);
    expect_fault((void *)16, 1);
    expect_fault((void *)16, 0);
    void *closed = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect_fault(closed, 0);
    /* Code is not written to, whether it is there or was removed. */
    expect_fault(dlsym(library, "spare_0"), 1);
    expect_fault(dlsym(library, "spare_2000"), 1);
    if (spare(2000) != 2000) abort();

    stack_t stack = {malloc(1 << 16), 0, 1 << 16};
    sigaltstack(&stack, 0);
    handle(SIGSEGV, on_fault, SA_ONSTACK | SA_NODEFER);
    int before = faults;
    if (!sigsetjmp(back, 1)) exit(deep(0));
    if (faults != before + 1) abort();
}

/* Threads of some languages have two pages for handlers, and nothing before them. */
static int on_small_stack(void) {
    char *memory = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory, 4096, PROT_NONE);
    stack_t stack = {memory + 4096, 0, 2 * 4096};
    if (sigaltstack(&stack, 0)) abort();
    return spare(2500) == 2500 ? 0 : 3;
}

/* What was open is closed, and its numbers are those of other files. */
static int after_closing(void) {
    if (spare(2500) != 2500) abort();
    for (int file = 3; file < 64; file++) close(file);
    for (int file = 3; file < 64; file++)
        if (memfd_create("other", 0) != file || ftruncate(file, 1 << 26)) abort();
    if (spare(3500) != 3500) abort();
    for (int file = 3; file < 64; file++) {
        struct stat facts;
        if (lseek(file, 0, SEEK_CUR) || fstat(file, &facts) || facts.st_blocks) abort();
    }
    return 0;
}

int main(int count, char **given) {
    library = dlopen(given[1], RTLD_NOW);
    if (!library || count < 3) return 2;
    if (!strcmp(given[2], "one")) return spare(2500) == 2500 ? 0 : 3;
    if (!strcmp(given[2], "small")) return on_small_stack();
    if (!strcmp(given[2], "closed")) return after_closing();
    if (!strcmp(given[2], "crash")) return *(volatile char *)16;
    if (!strcmp(given[2], "default")) {
        signal(SIGSEGV, SIG_IGN);
        return *(volatile char *)16;
    }
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, 0);
    pthread_t threads[4];
    for (int n = 0; n < 4; n++) pthread_create(&threads[n], 0, in_thread, 0);
    for (int n = 0; n < 4; n++) pthread_join(threads[n], 0);
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, 0);
    own_faults();
    if (fork() == 0) _exit(spare(3501) == 3501 ? 0 : 1);
    int status;
    wait(&status);
    if (status) abort();
    puts("done");
    return 0;
}
