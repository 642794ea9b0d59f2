// Images: shared objects that call back into this library.
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <map>

#include "driver.h"

namespace emu {

struct Library {
    int file; // of the image in memory
    void* handle = nullptr;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

constexpr uint16_t machine_cuda = 190;

// An image comes without a length; its header says where its last part ends.
static size_t image_bytes(const void* image, Result& result) {
    Elf64_Ehdr header;
    memcpy(&header, image, sizeof header);
    result = invalid_image;
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return 0;
    if (header.e_machine == machine_cuda) result = no_binary_for_gpu;
    if (header.e_machine != EM_X86_64 || header.e_type != ET_DYN) return 0;
    result = success;
    return header.e_shoff + size_t(header.e_shnum) * header.e_shentsize;
}

// Makes this library's symbols visible to images, however it was opened itself.
static void show_own_symbols() {
    Dl_info info;
    if (dladdr(reinterpret_cast<void*>(&show_own_symbols), &info))
        dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

static bool write_all(int file, const void* data, size_t bytes) {
    const auto* p = static_cast<const uint8_t*>(data);
    while (bytes > 0) {
        const ssize_t written = write(file, p, bytes);
        if (written <= 0) return false;
        p += written;
        bytes -= size_t(written);
    }
    return true;
}

Library* load_library(const void* image, Result& result) {
    const size_t bytes = image_bytes(image, result);
    if (result != success) return nullptr;
    show_own_symbols();
    const int file = memfd_create("flashbun-image", MFD_CLOEXEC);
    result = out_of_memory;
    if (file < 0) return nullptr;
    void* handle = nullptr;
    if (write_all(file, image, bytes)) {
        // Also another process that knows the name may read it: a race detector's symbolizer.
        const std::string path =
            "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file);
        handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr) {
            result = invalid_image;
            driver().last_failure = dlerror();
            if (options().verbose) fprintf(stderr, "emulator: %s\n", driver().last_failure.c_str());
        }
    }
    if (handle == nullptr) {
        close(file);
        return nullptr;
    }
    result = success;
    auto* library = new Library();
    library->handle = handle;
    // Kept open: dlopen takes a path that it knows for the library that it knows.
    library->file = file;
    return library;
}

void unload_library(Library* library) {
    dlclose(library->handle);
    close(library->file);
    delete library;
}

Function* find_function(Library* library, const char* name) {
    auto& slot = library->functions[name];
    if (slot) return slot.get();
    const auto* kernel = static_cast<const Kernel*>(
        dlsym(library->handle, (std::string("fb_kernel_") + name).c_str()));
    if (kernel == nullptr || kernel->version != kernel_version) return nullptr;
    slot = std::make_unique<Function>();
    slot->kernel = kernel;
    slot->library = library;
    slot->name = name;
    return slot.get();
}

} // namespace emu
