// FLASHBUN_EMULATOR="order=random,seed=7,landing=lazy,sms=4,verbose", read once.
#pragma once
#include <cstdint>

namespace emu {

// greedy: the thread or stream that was woken last runs on as far as it can.
enum class Order { fifo, greedy, random };
enum class Landing { lazy, eager };

struct Options {
    Order order = Order::fifo;
    Landing landing = Landing::lazy;
    uint64_t seed = 1;
    uint32_t processors = 4;
    uint32_t devices = 1;
    uint32_t threads = 0; // of the host, 0: one per core
    uint64_t memory = uint64_t(4) << 30;
    uint32_t timeout_seconds = 20; // of blocks that only poll
    int driver = 13000;
    int compute = 90; // capability: 75 is 7.5
    bool races = false; // kernels are compiled for the race detector, which is here
    bool races_by_warp = false; // the lanes of a warp are one thread to it
    bool verbose = false;
};

// Unknown names and values are printed to stderr and end the process: with a schedule other than
// the requested one, a test would prove less than it seems to.
const Options& options();

} // namespace emu
