// The asynchronous proxy as a race detector sees it: a thread of its own, which learns of a
// thread's ordinary writes only through that thread's fence.proxy.async.
#pragma once
#include "runtime.h"

namespace emu {

class Proxy {
  public:
    // after: something that the operation is ordered behind besides the fences
    explicit Proxy(Runner* runner, void* after = nullptr) {
        if (!race::watched()) return;
        before_ = race::current_fiber();
        race::switch_to(runner->proxy_fiber);
        race::acquire(&runner->proxy_tag);
        if (after) race::acquire(after);
    }
    ~Proxy() {
        if (before_) race::switch_to(before_);
    }
    Proxy(const Proxy&) = delete;
    Proxy& operator=(const Proxy&) = delete;

  private:
    void* before_ = nullptr;
};

} // namespace emu
