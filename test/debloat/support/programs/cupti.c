/* Stands in for libcupti.so.13: one subscriber, and the callbacks that it asked for. */
#include <stdint.h>

typedef void (*callback)(void *user, uint32_t domain, uint32_t id, const void *data);

static callback subscriber;
static uint8_t enabled[8][1024];

int cuptiSubscribe(void **handle, callback function, void *user) {
    (void)user;
    if (subscriber) return 39;
    subscriber = function;
    *handle = &subscriber;
    return 0;
}

int cuptiEnableCallback(uint32_t enable, void *handle, uint32_t domain, uint32_t id) {
    (void)handle;
    if (domain >= 8 || id >= 1024) return 1;
    enabled[domain][id] = enable;
    return 0;
}

void standin_say(uint32_t domain, uint32_t id, const void *data) {
    if (!subscriber || domain >= 8 || id >= 1024 || !enabled[domain][id]) return;
    subscriber(0, domain, id, data);
}
