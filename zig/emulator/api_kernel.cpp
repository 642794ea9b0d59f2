// Images, kernels, launches and tensor maps.
#include <algorithm>

#include "api.h"
#include "tensor_map.h"

namespace emu {

static Result cuLibraryLoadData(Library** out, const void* image, int*, void**, unsigned, int*,
                                void**, unsigned) {
    Call call;
    if (call.error) return call.error;
    Result result;
    *out = load_library(image, result);
    return result;
}

static Result cuLibraryUnload(Library* library) {
    Call call;
    if (call.error == not_initialized) return call.error;
    wait_until(call.lock, [] {
        for (Device* device : driver().devices)
            for (Stream* stream : device->streams)
                if (!drained(stream)) return false;
        return true;
    });
    unload_library(library);
    return success;
}

static Result cuLibraryGetKernel(Function** out, Library* library, const char* name) {
    Call call;
    if (call.error) return call.error;
    *out = find_function(library, name);
    return *out ? success : not_found;
}

// A kernel and its function in the one context are the same here.
static Result cuKernelGetFunction(Function** out, Function* kernel) {
    *out = kernel;
    return success;
}

namespace {
enum FunctionAttribute {
    max_threads_per_block = 0,
    static_shared_bytes = 1,
    constant_bytes = 2,
    local_bytes = 3,
    register_count = 4,
    ptx_version = 5,
    binary_version = 6,
    max_dynamic_shared_bytes = 8,
    preferred_carveout = 9,
    non_portable_cluster_size = 14,
};
} // namespace

static Result cuKernelGetAttribute(int* value, int id, Function* function, int) {
    switch (id) {
    case max_threads_per_block:
        *value = int(function->kernel->threads);
        return success;
    case ptx_version:
    case binary_version:
        *value = 90;
        return success;
    case max_dynamic_shared_bytes:
        *value = int(function->shared_max);
        return success;
    case static_shared_bytes: // these four are not known before the kernel has run, or at all
    case constant_bytes:
    case local_bytes:
    case register_count:
        *value = 0;
        return success;
    default:
        *value = 0;
        return invalid_value;
    }
}

static Result cuKernelSetAttribute(int id, int value, Function* function, int) {
    switch (id) {
    case max_dynamic_shared_bytes:
        if (value < 0 || value > int(capability().shared_per_block())) return invalid_value;
        function->shared_max = uint32_t(value);
        return success;
    case non_portable_cluster_size:
        function->cluster_max = value ? 16 : 8;
        return success;
    case preferred_carveout:
        return success;
    default:
        return invalid_value;
    }
}

static Result cuKernelGetParamInfo(Function* function, size_t index, size_t* offset, size_t* size) {
    if (index != 0) return invalid_value;
    if (offset) *offset = 0;
    if (size) *size = function->kernel->params_bytes;
    return success;
}

// --- occupancy

static Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* function,
                                                          int threads, size_t shared) {
    if (threads <= 0) return invalid_value;
    const bool fits = uint32_t(threads) <= function->kernel->threads;
    *blocks = fits ? int(resident_blocks(uint32_t(threads), shared)) : 0;
    return success;
}

static uint32_t cluster_of(const LaunchConfig& config) {
    for (unsigned i = 0; i < config.attribute_count; ++i) {
        const LaunchAttribute& a = config.attributes[i];
        if (a.id == attribute_cluster)
            return a.value.cluster.x * a.value.cluster.y * a.value.cluster.z;
    }
    return 1;
}

static Result cuOccupancyMaxActiveClusters(int* clusters, Function*, const LaunchConfig* config) {
    const uint32_t threads = config->block_x * config->block_y * config->block_z,
                   size = cluster_of(*config);
    if (size == 0) return invalid_cluster_size;
    *clusters = int(resident_blocks(threads, config->shared_bytes) * options().processors / size);
    return success;
}

// --- launches

static Result check_shape(const LaunchConfig& c, const Function& function, uint32_t cluster) {
    const uint64_t threads = uint64_t(c.block_x) * c.block_y * c.block_z;
    if (c.grid_x == 0 || c.grid_y == 0 || c.grid_z == 0 || threads == 0) return invalid_value;
    if (c.grid_y > 65535 || c.grid_z > 65535 || threads > 1024 || c.block_z > 64)
        return invalid_value;
    if (threads > function.kernel->threads)
        return launch_out_of_resources; // than its launch bounds
    if (c.shared_bytes > function.shared_max) return invalid_value;
    if (cluster == 0 || cluster > function.cluster_max || c.grid_x % cluster)
        return invalid_cluster_size;
    return success;
}

static Result cuLaunchKernelEx(const LaunchConfig* config, Function* function, void** arguments,
                               void** extra) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, config->stream);
    if (stream == nullptr) return invalid_handle;
    if (arguments == nullptr || extra != nullptr) return invalid_value;
    const uint32_t cluster = cluster_of(*config);
    if (Result wrong = check_shape(*config, *function, cluster)) return wrong;
    Operation operation(Operation::Kind::kernel);
    operation.function = function;
    operation.parameters =
        std::make_shared<Parameters>(arguments[0], function->kernel->params_bytes);
    operation.shape.kernel = function->kernel;
    operation.shape.grid = dim3(config->grid_x, config->grid_y, config->grid_z);
    operation.shape.threads = dim3(config->block_x, config->block_y, config->block_z);
    operation.shape.shared_bytes = config->shared_bytes;
    operation.shape.cluster = cluster;
    for (unsigned i = 0; i < config->attribute_count; ++i) {
        const LaunchAttribute& a = config->attributes[i];
        if (a.id == attribute_programmatic)
            operation.shape.programmatic = a.value.programmatic != 0;
        if (a.id == attribute_cluster && a.value.cluster.x != cluster) return not_supported;
    }
    return enqueue(stream, std::move(operation));
}

// --- tensor maps

namespace {
struct ElementType {
    uint8_t bytes;
    Number kind;
};
// In the order of CUtensorMapDataType; integers are moved as bytes and never added.
constexpr ElementType element_types[] = {
    {1, Number::e4m3}, {2, Number::e4m3}, {4, Number::e4m3}, {4, Number::e4m3}, {8, Number::e4m3},
    {8, Number::e4m3}, {2, Number::f16},  {4, Number::f32},  {8, Number::e4m3}, {2, Number::bf16},
    {4, Number::f32},  {4, Number::f32},  {4, Number::f32}};
} // namespace

static Result cuTensorMapEncodeTiled(TensorMap* out, unsigned type, unsigned rank, void* base,
                                     const uint64_t* extents, const uint64_t* strides,
                                     const uint32_t* box, const uint32_t* steps, int interleave,
                                     unsigned swizzle, int, int fill) {
    if (type >= std::size(element_types) || rank == 0 || rank > 5 || swizzle > 3)
        return invalid_value;
    if (reinterpret_cast<uintptr_t>(base) % 16 || reinterpret_cast<uintptr_t>(out) % 64)
        return invalid_value;
    if (interleave) return not_supported;
    TensorMap map = {};
    map.magic = tensor_map_magic;
    map.base = static_cast<uint8_t*>(base);
    map.rank = uint8_t(rank);
    map.element_bytes = element_types[type].bytes;
    map.kind = element_types[type].kind;
    map.swizzle_bytes = swizzle ? uint8_t(16 << swizzle) : 0;
    map.nan_fill = uint8_t(fill);
    for (unsigned axis = 0; axis < rank; ++axis) {
        if (extents[axis] == 0 || extents[axis] > uint64_t(1) << 32) return invalid_value;
        if (box[axis] == 0 || box[axis] > 256 || steps[axis] == 0 || steps[axis] > 8)
            return invalid_value;
        if (steps[axis] != 1) return not_supported;
        map.extents[axis] = extents[axis];
        map.box[axis] = uint16_t(box[axis]);
        if (axis == 0) continue;
        if (strides[axis - 1] % 16 || strides[axis - 1] >= uint64_t(1) << 40) return invalid_value;
        map.strides[axis - 1] = strides[axis - 1];
    }
    const uint32_t row = box[0] * map.element_bytes;
    if (row % 16 || (map.swizzle_bytes && row > map.swizzle_bytes)) return invalid_value;
    *out = map;
    return success;
}

const Entry kernel_entries[] = {EMU_ENTRY(cuLibraryLoadData),
                                EMU_ENTRY(cuLibraryUnload),
                                EMU_ENTRY(cuLibraryGetKernel),
                                EMU_ENTRY(cuKernelGetFunction),
                                EMU_ENTRY(cuKernelGetAttribute),
                                EMU_ENTRY(cuKernelSetAttribute),
                                EMU_ENTRY(cuKernelGetParamInfo),
                                EMU_ENTRY(cuOccupancyMaxActiveBlocksPerMultiprocessor),
                                EMU_ENTRY(cuOccupancyMaxActiveClusters),
                                EMU_ENTRY(cuLaunchKernelEx),
                                EMU_ENTRY(cuTensorMapEncodeTiled),
                                {nullptr, nullptr}};

} // namespace emu
