#include "options.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "race.h"

namespace emu {

static uint64_t number(const std::string& text, bool& good) {
    char* end = nullptr;
    uint64_t value = strtoull(text.c_str(), &end, 10);
    for (const char* unit : {"K", "M", "G"}) {
        if (end == text.c_str() || *end != *unit) continue;
        value <<= *unit == 'K' ? 10 : *unit == 'M' ? 20 : 30;
        ++end;
        break;
    }
    good = good && end != text.c_str() && *end == '\0';
    return value;
}

static bool set(Options& o, const std::string& name, const std::string& value) {
    bool good = true;
    if (name == "order" && value == "fifo")
        o.order = Order::fifo;
    else if (name == "order" && value == "greedy")
        o.order = Order::greedy;
    else if (name == "order" && value == "random")
        o.order = Order::random;
    else if (name == "landing" && value == "lazy")
        o.landing = Landing::lazy;
    else if (name == "landing" && value == "eager")
        o.landing = Landing::eager;
    else if (name == "seed")
        o.seed = number(value, good);
    else if (name == "sms")
        o.processors = uint32_t(number(value, good));
    else if (name == "devices")
        o.devices = uint32_t(number(value, good));
    else if (name == "threads")
        o.threads = uint32_t(number(value, good));
    else if (name == "memory")
        o.memory = number(value, good);
    else if (name == "timeout")
        o.timeout_seconds = uint32_t(number(value, good));
    else if (name == "driver")
        o.driver = int(number(value, good));
    else if (name == "compute") {
        o.compute = int(number(value, good));
        good = good && (o.compute == 75 || o.compute == 80 || o.compute == 90);
    } else if (name == "races") {
        good = o.races = race::watched();
        o.races_by_warp = value == "warps";
        good = good && (value.empty() || o.races_by_warp);
    } else if (name == "verbose")
        o.verbose = true;
    else
        good = false;
    return good;
}

static Options read() {
    Options o;
    const char* text = getenv("FLASHBUN_EMULATOR");
    std::string rest = text ? text : "";
    while (!rest.empty()) {
        const size_t comma = rest.find(',');
        const std::string item = rest.substr(0, comma);
        rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
        const size_t equals = item.find('=');
        const std::string value = equals == std::string::npos ? "" : item.substr(equals + 1);
        if (set(o, item.substr(0, equals), value)) continue;
        fprintf(
            stderr,
            "FLASHBUN_EMULATOR: \"%s\" is none of order=fifo|greedy|random, landing=lazy|eager, "
            "seed=, sms=, devices=, threads=, memory=, timeout=, driver=, compute=75|80|90, "
            "verbose, or races and races=warps where "
            "the race detector is preloaded\n",
            item.c_str());
        exit(2);
    }
    return o;
}

const Options& options() {
    static const Options read_once = read();
    return read_once;
}

} // namespace emu
