// What the emulator reports to ThreadSanitizer, where kernels were compiled with it; elsewhere
// these do nothing.
#pragma once
#include <cstddef>

extern "C" {
void* __tsan_create_fiber(unsigned) __attribute__((weak));
void __tsan_destroy_fiber(void*) __attribute__((weak));
void __tsan_switch_to_fiber(void*, unsigned) __attribute__((weak));
void* __tsan_get_current_fiber() __attribute__((weak));
void __tsan_acquire(void*) __attribute__((weak));
void __tsan_release(void*) __attribute__((weak));
void __tsan_read_range(void*, unsigned long) __attribute__((weak));
void __tsan_write_range(void*, unsigned long) __attribute__((weak));
}

namespace emu::race {

inline bool watched() { return __tsan_create_fiber != nullptr; }
inline void* create_fiber() { return watched() ? __tsan_create_fiber(0) : nullptr; }
inline void* current_fiber() { return watched() ? __tsan_get_current_fiber() : nullptr; }
// Switching orders nothing: that is the point.
inline void switch_to(void* fiber) {
    if (watched() && fiber != current_fiber()) __tsan_switch_to_fiber(fiber, 1);
}
inline void acquire(void* tag) {
    if (watched()) __tsan_acquire(tag);
}
inline void release(void* tag) {
    if (watched()) __tsan_release(tag);
}
inline void reads(const void* p, size_t bytes) {
    if (watched()) __tsan_read_range(const_cast<void*>(p), bytes);
}
inline void writes(void* p, size_t bytes) {
    if (watched()) __tsan_write_range(p, bytes);
}

} // namespace emu::race
