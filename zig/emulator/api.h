// The driver's functions. Names and signatures are those of the CUDA driver API.
#pragma once
#include "driver.h"

namespace emu {

struct Entry {
    const char* name;
    void* function;
};
#define EMU_ENTRY(name) {#name, reinterpret_cast<void*>(&name)}

// The entries of api_*.cpp, each ending with a null name.
extern const Entry device_entries[], stream_entries[], graph_entries[], kernel_entries[];

// Holds the driver's lock, and says why a call that needs a context cannot be made.
struct Call {
    std::unique_lock<std::mutex> lock;
    Device* device;
    Result error;
    Call();
};

Device* current_device();
void set_current_device(Device* device);
Device* device_at(int ordinal); // null: there is none
// The stream of a handle; null: there is none such.
Stream* stream_of(Call& call, void* handle);

// What a launch's attributes say.
struct LaunchAttribute {
    int id, reserved;
    union {
        uint8_t bytes[64];
        struct {
            unsigned x, y, z;
        } cluster;
        int programmatic;
    } value;
};
static_assert(sizeof(LaunchAttribute) == 72);
constexpr int attribute_cluster = 4, attribute_programmatic = 6;

struct LaunchConfig {
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    void* stream;
    const LaunchAttribute* attributes;
    unsigned attribute_count;
};
static_assert(sizeof(LaunchConfig) == 56);

} // namespace emu
