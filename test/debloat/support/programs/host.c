/* Enters functions of a library in every way a program may:
   host <library> <split library> [number].
   The library has functions spare_0, spare_1, ... that return their number. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static void *library;
static int traps, faults;

static void spare(int number) {
    char name[32];
    snprintf(name, sizeof name, "spare_%d", number);
    int (*function)(void) = (int (*)(void))dlsym(library, name);
    if (function() != number) abort();
}

static void *in_thread(void *ignored) {
    (void)ignored;
    for (int number = 10; number < 20; number++) spare(number);
    return 0;
}

static void in_child(void (*work)(void)) {
    if (fork() == 0) work();
    wait(0);
}
static void forked(void) { spare(20); _exit(0); }
static void killed(void) { spare(21); raise(SIGKILL); }
static void exits(void) { spare(22); exit(0); }

static char **arguments;
static void replaced(void) {
    spare(1500);
    execl(arguments[0], arguments[0], arguments[1], arguments[2], "29", (char *)0);
    abort();
}

static void on_trap(int number) { traps += number == SIGTRAP; }
static void on_user(int number) { (void)number; spare(23); }

static sigjmp_buf back;
static void on_fault(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    faults += info->si_addr == (void *)16;
    siglongjmp(back, 1);
}

static void spawn(char **given, const char *number) {
    char *arguments[] = {given[0], given[1], given[2], (char *)number, 0};
    pid_t child;
    if (posix_spawn(&child, given[0], 0, 0, arguments, environ)) abort();
    waitpid(child, 0, 0);
}

static void signals(void) {
    struct sigaction action, old;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_trap;
    if (sigaction(SIGTRAP, &action, 0)) abort();
    if (sigaction(SIGTRAP, 0, &old) || old.sa_handler != on_trap) abort();
    raise(SIGTRAP);
    spare(24);
    raise(SIGTRAP);
    if (signal(SIGTRAP, SIG_IGN) != on_trap) abort();
    raise(SIGTRAP);
    if (traps != 2) abort();

    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    spare(25);
    pthread_sigmask(SIG_SETMASK, &before, 0);

    action.sa_handler = on_user;
    sigfillset(&action.sa_mask);
    sigaction(SIGUSR1, &action, 0);
    raise(SIGUSR1);

    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, 0);
    if (!sigsetjmp(back, 1)) *(volatile int *)16 = 1;
    if (faults != 1) abort();
}

int main(int count, char **given) {
    arguments = given;
    library = dlopen(given[1], RTLD_NOW);
    if (count > 3) return spare(atoi(given[3])), 0;
    spare(0);
    dlclose(library);
    library = dlopen(given[1], RTLD_NOW);
    spare(1);
    void *other = dlopen(given[2], RTLD_NOW);
    if (((int (*)(int))dlsym(other, "split"))(1) != 2) abort();
    pthread_t threads[4];
    for (int n = 0; n < 4; n++) pthread_create(&threads[n], 0, in_thread, 0);
    for (int n = 0; n < 4; n++) pthread_join(threads[n], 0);
    in_child(forked);
    in_child(killed);
    in_child(exits);
    in_child(replaced);
    signals();
    spawn(given, "26");
    char command[4096];
    snprintf(command, sizeof command, "'%s' '%s' '%s' 27", given[0], given[1], given[2]);
    if (system(command)) abort();
    puts("done");
    return 0;
}
