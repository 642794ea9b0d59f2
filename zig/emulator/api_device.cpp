// Devices, contexts, memory and copies.
#include <cstdio>

#include "api.h"

namespace emu {

static Result cuInit(unsigned) {
    std::lock_guard<std::mutex> lock(driver().mutex);
    if (options().devices == 0) return no_device;
    if (driver().initialized) return success;
    for (uint32_t i = 0; i < options().devices; ++i) {
        auto* device = new Device();
        device->ordinal = int(i);
        device->null_stream.device = device;
        device->streams.push_back(&device->null_stream);
        driver().devices.push_back(device);
    }
    driver().initialized = true;
    return success;
}

static Result cuDeviceGetCount(int* count) {
    std::lock_guard<std::mutex> lock(driver().mutex);
    *count = int(driver().devices.size());
    return driver().initialized ? success : not_initialized;
}

static Result cuDeviceGet(int* device, int ordinal) {
    std::lock_guard<std::mutex> lock(driver().mutex);
    if (!driver().initialized) return not_initialized;
    *device = ordinal;
    return device_at(ordinal) ? success : invalid_device;
}

static Result cuDeviceGetName(char* name, int length, int device) {
    if (device_at(device) == nullptr) return invalid_device;
    snprintf(name, size_t(length), "flashbun emulated GPU");
    return success;
}

static Result cuDeviceGetUuid(uint8_t* uuid, int device) {
    if (device_at(device) == nullptr) return invalid_device;
    memset(uuid, 0, 16);
    snprintf(reinterpret_cast<char*>(uuid), 16, "emulated %d", device);
    return success;
}

static Result cuDeviceTotalMem(size_t* bytes, int device) {
    *bytes = options().memory;
    return device_at(device) ? success : invalid_device;
}

static int attribute(int id) {
    switch (id) {
    case 1:
        return 1024; // MAX_THREADS_PER_BLOCK
    case 2:
    case 3:
        return 1024; // MAX_BLOCK_DIM_X, _Y
    case 4:
        return 64; // MAX_BLOCK_DIM_Z
    case 5:
        return 0x7fffffff; // MAX_GRID_DIM_X
    case 6:
    case 7:
        return 65535; // MAX_GRID_DIM_Y, _Z
    case 8:
        return int(shared_without_opt_in);
    case 10:
        return 32; // WARP_SIZE
    case 12:
    case 82:
        return int(registers_per_processor); // of a block, of a multiprocessor
    case 13:
        return 1980000; // CLOCK_RATE
    case 16:
        return int(options().processors);
    case 31:
    case 41:
    case 78:
    case 95:
    case 115:
    case 120:
    case 127:
        return 1; // things that an H100 can do
    case 36:
        return 2619000; // MEMORY_CLOCK_RATE
    case 37:
        return 5120; // GLOBAL_MEMORY_BUS_WIDTH
    case 38:
        return 50 << 20; // L2_CACHE_SIZE
    case 39:
        return int(capability().threads_per_processor);
    case 40:
        return 3; // ASYNC_ENGINE_COUNT
    case 75:
        return options().compute / 10; // COMPUTE_CAPABILITY_MAJOR
    case 76:
        return options().compute % 10; // COMPUTE_CAPABILITY_MINOR
    case 81:
        return int(capability().shared_per_processor);
    case 97:
        return int(capability().shared_per_block()); // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    case 106:
        return int(capability().blocks_per_processor);
    case 111:
        return int(capability().shared_reserved);
    default:
        return 0;
    }
}

static Result cuDeviceGetAttribute(int* value, int id, int device) {
    *value = attribute(id);
    return device_at(device) ? success : invalid_device;
}

// --- contexts: a device's primary one is all there is, and its handle is the device

static Result cuDevicePrimaryCtxRetain(Device** context, int ordinal) {
    std::lock_guard<std::mutex> lock(driver().mutex);
    Device* device = device_at(ordinal);
    if (device == nullptr) return invalid_device;
    ++device->retained;
    *context = device;
    return success;
}

static bool all_drained(const Device* device) {
    for (const Stream* stream : device->streams)
        if (!drained(stream)) return false;
    return true;
}

static Result cuDevicePrimaryCtxRelease(int ordinal) {
    std::unique_lock<std::mutex> lock(driver().mutex);
    Device* device = device_at(ordinal);
    if (device == nullptr) return invalid_device;
    if (device->retained == 0) return invalid_context;
    if (--device->retained > 0) return success;
    wait_until(lock, [&] { return all_drained(device); });
    // A context ends with all that it had, its failure too.
    free_all(device->ordinal);
    device->error = success;
    device->failure.clear();
    return success;
}

static Result cuCtxSetCurrent(Device* context) {
    set_current_device(context);
    return success;
}

static Result cuCtxGetCurrent(Device** context) {
    *context = current_device();
    return success;
}

static Result cuCtxSynchronize() {
    Call call;
    if (call.error) return call.error;
    for (Stream* stream : call.device->streams) {
        if (!stream->capture) continue;
        stream->capture->invalid = true;
        return capture_unsupported;
    }
    wait_until(call.lock, [&] { return all_drained(call.device); });
    return call.device->error;
}

// --- memory

static Result cuMemGetInfo(size_t* free, size_t* total) {
    Call call;
    if (call.error) return call.error;
    *total = options().memory;
    *free = *total - bytes_in_use(call.device->ordinal);
    return success;
}

static Result cuMemAlloc(void** p, size_t bytes) {
    Call call;
    if (call.error) return call.error;
    if (Result refused = check_captures()) return refused;
    Result result;
    *p = allocate_device(call.device->ordinal, bytes, result);
    return result;
}

static Result cuMemFree(void* p) {
    Call call;
    if (call.error) return call.error;
    if (p == nullptr) return success;
    if (Result refused = check_captures()) return refused;
    wait_until(call.lock, [&] { return all_drained(call.device); });
    if (call.device->error) return call.device->error;
    return free_device(p);
}

static Result cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    Call call;
    if (call.error) return call.error;
    if (Result refused = check_captures()) return refused;
    if (bytes == 0) return invalid_value;
    *p = allocate_pinned(bytes);
    return *p ? success : out_of_memory;
}

static Result cuMemFreeHost(void* p) {
    Call call;
    if (call.error) return call.error;
    if (Result refused = check_captures()) return refused;
    wait_until(call.lock, [&] { return all_drained(call.device); });
    return free_pinned(p);
}

static Result cuPointerGetAttribute(void* out, int id, const void* p) {
    const Range range = range_of(p);
    if (range.memory == Memory::pageable || range.device < 0) return invalid_value;
    switch (id) {
    case 2:
        *static_cast<unsigned*>(out) = range.memory == Memory::device ? 2 : 1;
        return success;
    case 9:
        *static_cast<int*>(out) = range.device;
        return success;
    case 11:
        *static_cast<void**>(out) = range.start;
        return success;
    case 12:
        *static_cast<size_t*>(out) = range.bytes;
        return success;
    default:
        return invalid_value;
    }
}

// --- copies

static bool lies_within(const Range& range, const void* p, size_t bytes) {
    if (range.memory == Memory::pageable) return true;
    return range.start && static_cast<const uint8_t*>(p) + bytes <= range.start + range.bytes;
}

static Result cuMemcpyAsync(void* target, const void* source, size_t bytes, void* handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr) return invalid_handle;
    if (bytes == 0) return success;
    const Range to = range_of(target), from = range_of(source);
    if (!lies_within(to, target, bytes) || !lies_within(from, source, bytes)) return invalid_value;
    const bool pageable = to.memory == Memory::pageable || from.memory == Memory::pageable;
    if (pageable && stream->capture) {
        stream->capture->invalid = true;
        return capture_unsupported;
    }
    Operation operation(Operation::Kind::copy);
    operation.target = target;
    operation.source = source;
    operation.bytes = bytes;
    if (from.memory == Memory::pageable) {
        const auto* bytes_of = static_cast<const uint8_t*>(source);
        operation.kept = std::make_shared<std::vector<uint8_t>>(bytes_of, bytes_of + bytes);
    }
    const Result result = enqueue(stream, std::move(operation));
    if (result != success || to.memory != Memory::pageable) return result;
    wait_until(call.lock, [&] { return drained(stream); });
    return call.device->error;
}

static Result cuMemsetD8Async(void* target, uint8_t value, size_t bytes, void* handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr) return invalid_handle;
    if (bytes == 0) return success;
    const Range to = range_of(target);
    if (to.memory == Memory::pageable || !lies_within(to, target, bytes)) return invalid_value;
    Operation operation(Operation::Kind::fill);
    operation.target = target;
    operation.bytes = bytes;
    operation.value = value;
    return enqueue(stream, std::move(operation));
}

const Entry device_entries[] = {EMU_ENTRY(cuInit),
                                EMU_ENTRY(cuDeviceGetCount),
                                EMU_ENTRY(cuDeviceGet),
                                EMU_ENTRY(cuDeviceGetName),
                                EMU_ENTRY(cuDeviceGetUuid),
                                EMU_ENTRY(cuDeviceTotalMem),
                                EMU_ENTRY(cuDeviceGetAttribute),
                                EMU_ENTRY(cuDevicePrimaryCtxRetain),
                                EMU_ENTRY(cuDevicePrimaryCtxRelease),
                                EMU_ENTRY(cuCtxSetCurrent),
                                EMU_ENTRY(cuCtxGetCurrent),
                                EMU_ENTRY(cuCtxSynchronize),
                                EMU_ENTRY(cuMemGetInfo),
                                EMU_ENTRY(cuMemAlloc),
                                EMU_ENTRY(cuMemFree),
                                EMU_ENTRY(cuMemHostAlloc),
                                EMU_ENTRY(cuMemFreeHost),
                                EMU_ENTRY(cuPointerGetAttribute),
                                EMU_ENTRY(cuMemcpyAsync),
                                EMU_ENTRY(cuMemsetD8Async),
                                {nullptr, nullptr}};

} // namespace emu
