// What a program finds in this library: cuGetProcAddress and, through it, all the rest.
#include "api.h"

#include <cstdio>

namespace emu {

namespace {
struct ErrorText {
    Result result;
    const char *name, *text;
};
const ErrorText error_texts[] = {
    {success, "CUDA_SUCCESS", "no error"},
    {invalid_value, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {out_of_memory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {not_initialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {no_device, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {invalid_device, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {invalid_image, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {invalid_context, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {no_binary_for_gpu, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {invalid_handle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {not_found, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {not_ready, "CUDA_ERROR_NOT_READY", "device not ready"},
    {Result(illegal_address), "CUDA_ERROR_ILLEGAL_ADDRESS",
     "an illegal memory access was encountered"},
    {launch_out_of_resources, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {Result(launch_timeout), "CUDA_ERROR_LAUNCH_TIMEOUT",
     "the launch timed out and was terminated"},
    {Result(illegal_instruction), "CUDA_ERROR_ILLEGAL_INSTRUCTION",
     "an illegal instruction was encountered"},
    {Result(misaligned_address), "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {Result(launch_failed), "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {not_supported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {capture_unsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {capture_invalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {capture_unmatched, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "the capture was not started in this stream"},
    {capture_unjoined, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {capture_isolation, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {captured_event, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
    {graph_update_failure, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE",
     "the graph update was not performed because it included changes which violated constraints"},
    {invalid_cluster_size, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "invalid cluster size"},
};

const ErrorText* text_of(Result result) {
    for (const ErrorText& e : error_texts)
        if (e.result == result) return &e;
    return nullptr;
}
} // namespace

static thread_local Device* current;
Device* current_device() { return current; }
void set_current_device(Device* device) { current = device; }

Device* device_at(int ordinal) {
    auto& devices = driver().devices;
    return ordinal >= 0 && size_t(ordinal) < devices.size() ? devices[size_t(ordinal)] : nullptr;
}

Call::Call() : lock(driver().mutex), device(current) {
    if (!driver().initialized)
        error = not_initialized;
    else if (device == nullptr || device->retained == 0)
        error = invalid_context;
    else
        error = device->error;
}

Stream* stream_of(Call& call, void* handle) {
    // 1 and 2 name the legacy and the per-thread default stream.
    if (reinterpret_cast<uintptr_t>(handle) <= 2) return &call.device->null_stream;
    for (Device* device : driver().devices)
        for (Stream* stream : device->streams)
            if (stream == handle && !stream->leaving) return stream;
    return nullptr;
}

static Result cuGetErrorName(Result result, const char** name) {
    const ErrorText* e = text_of(result);
    *name = e ? e->name : nullptr;
    return e ? success : invalid_value;
}

// Unlike the real one, it also says what a kernel did wrong.
static Result cuGetErrorString(Result result, const char** text) {
    static thread_local std::string kept;
    const ErrorText* e = text_of(result);
    *text = nullptr;
    if (e == nullptr) return invalid_value;
    kept = e->text;
    std::lock_guard<std::mutex> lock(driver().mutex);
    for (Device* device : driver().devices)
        if (result != success && device->error == result) kept += ": " + device->failure;
    *text = kept.c_str();
    return success;
}

static Result cuDriverGetVersion(int* version) {
    *version = options().driver;
    return success;
}

extern "C" __attribute__((visibility("default"))) Result
cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags, int* status);

static const Entry own_entries[] = {
    EMU_ENTRY(cuGetErrorName),
    EMU_ENTRY(cuGetErrorString),
    EMU_ENTRY(cuDriverGetVersion),
    {"cuGetProcAddress", reinterpret_cast<void*>(&cuGetProcAddress_v2)},
    {nullptr, nullptr}};

// Names come without the version that C headers append.
static std::string plain_name(std::string name) {
    for (const char* suffix : {"_v2", "_v3", "_ptsz"})
        if (name.ends_with(suffix)) name.resize(name.size() - strlen(suffix));
    return name;
}

Result cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
    const std::string name = plain_name(symbol);
    *function = nullptr;
    for (const Entry* entries :
         {own_entries, device_entries, stream_entries, graph_entries, kernel_entries})
        for (const Entry* e = entries; e->name; ++e)
            if (name == e->name) *function = e->function;
    if (status) *status = *function ? 0 : 1;
    return *function ? success : not_found;
}

// Tells this library from a real driver.
extern "C" __attribute__((visibility("default"))) const int fb_emulated = 1;

} // namespace emu
