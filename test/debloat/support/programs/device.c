/* Uses kernels of a library, of images made at run time, in threads and in other processes:
   device <library> <image file of the library> [role] */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int cuInit(unsigned flags);
int cuLibraryLoadData(void **library, const void *code);
int cuModuleLoadData(void **module, const void *image);
int cuLibraryGetKernel(void **kernel, void *library, const char *name);
int cuModuleGetFunction(void **function, void *module, const char *name);
int cuLibraryGetModule(void **module, void *library);
int cuLibraryGetGlobal(void **address, size_t *bytes, void *library, const char *name);
int cuLibraryEnumerateKernels(void **kernels, unsigned count, void *library);
void standin_load(const void *image, size_t bytes);

static void *library;

static void look(const char *name) {
    void *kernel;
    cuLibraryGetKernel(&kernel, library, name);
}

static void *in_thread(void *argument) {
    char name[32];
    snprintf(name, sizeof name, "thread_%ld", (long)argument);
    for (int round = 0; round < 200; round++) look(name);
    return 0;
}

static void in_child(void (*work)(void)) {
    if (fork() == 0) work();
    wait(0);
}

static void forked(void) { look("forked"); _exit(0); }
static void killed(void) { look("killed"); raise(SIGKILL); }

static char **arguments;
static void replaced(void) {
    execl(arguments[0], arguments[0], arguments[1], arguments[2], "replaced", (char *)0);
    abort();
}

int main(int count, char **given) {
    arguments = given;
    /* By a relative name, and then the folder is left. */
    char relative[4096];
    snprintf(relative, sizeof relative, ".%s", strrchr(given[1], '/'));
    if (chdir(dirname(strdup(given[1])))) abort();
    void *code = dlsym(dlopen(relative, RTLD_NOW), "answer");
    if (chdir("/")) abort();
    cuInit(0);
    cuLibraryLoadData(&library, code);
    if (count > 3) return look(given[3]), 0;

    look("looked_up");
    look("looked_up");
    look("missing");
    look("odd \"name\"\\ of one");
    size_t bytes;
    void *address, *module, *function, *kernels[2];
    cuLibraryGetGlobal(&address, &bytes, library, "table");
    cuLibraryGetModule(&module, library);
    cuModuleGetFunction(&function, module, "by_module");
    cuLibraryEnumerateKernels(kernels, 2, library);
    cuModuleLoadData(&module, malloc(16));
    cuModuleGetFunction(&function, module, "made_at_run_time");
    cuModuleGetFunction(&function, module, "copied_from_library");

    char *image = malloc(1 << 20);
    FILE *file = fopen(given[2], "rb");
    standin_load(image, fread(image, 1, 1 << 20, file));
    memset(image, 7, 100);
    standin_load(image, 100);

    pthread_t threads[4];
    for (long n = 0; n < 4; n++) pthread_create(&threads[n], 0, in_thread, (void *)n);
    for (int n = 0; n < 4; n++) pthread_join(threads[n], 0);
    in_child(forked);
    in_child(killed);
    in_child(replaced);
    puts("done");
    return 7;
}
