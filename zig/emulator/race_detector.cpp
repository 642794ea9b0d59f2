// ThreadSanitizer's runtime (what the compiler links with this file), to be loaded before all other
// libraries into a process that knows nothing of it. Kernels compiled for it are watched, each
// emulated thread as a thread; the rest of the process is none of its business.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() {
    return "ignore_noninstrumented_modules=1:report_signal_unsafe=0:die_after_fork=0";
}
