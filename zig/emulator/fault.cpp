// Signals: a fault inside a kernel ends the kernel, not the process. All others go to the handlers
// that were there before, such as those of a JavaScript engine, which depends on them.
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

#include <cstdio>

#include "runtime.h"

namespace emu {

static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
static struct sigaction earlier[65];

static const char* name_of(int signal) {
    switch (signal) {
    case SIGFPE:
        return "an integer division by zero";
    case SIGILL:
    case SIGTRAP:
        return "a check that the compiler put in failed, or the end of a function was missed";
    default:
        return "";
    }
}

// Runs on the faulting fiber, in place of the instruction that faulted.
static void after_fault() {
    const Runner& runner = *me()->runner;
    if (runner.fault_signal != SIGSEGV && runner.fault_signal != SIGBUS)
        fail_with(launch_failed, "%s", name_of(runner.fault_signal));
    const auto* stack = me()->stack;
    const auto* at = static_cast<const uint8_t*>(runner.fault_address);
    if (at >= stack && at < stack + stack_guard)
        fail_with(illegal_address, "the stack of the emulated thread is full");
    char text[400];
    describe_address(at, text, sizeof text);
    fail_with(illegal_address, "%s %s", runner.fault_writes ? "wrote" : "read", text);
}

static void pass_on(int signal, siginfo_t* info, void* context) {
    static __thread bool passing; // to one who passes it back?
    const struct sigaction& before = earlier[signal];
    if (passing) {
        ::signal(signal, SIG_DFL); // the instruction runs again and ends the process
        return;
    }
    passing = true;
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(signal, info, context);
    else if (before.sa_handler == SIG_DFL)
        ::signal(signal, SIG_DFL);
    else if (before.sa_handler != SIG_IGN)
        before.sa_handler(signal);
    passing = false;
}

static void on_signal(int signal, siginfo_t* info, void* context) {
    if (self == nullptr) return pass_on(signal, info, context);
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    Runner& runner = *me()->runner;
    runner.fault_signal = signal;
    runner.fault_address = info->si_addr;
    runner.fault_writes = registers[REG_ERR] & 2;
    // The fiber is lost anyway: its stack is used again from the top, as after a call.
    const auto top =
        reinterpret_cast<uintptr_t>(me()->stack + stack_guard + stack_bytes) & ~uintptr_t(15);
    registers[REG_RSP] = greg_t(top - 8);
    registers[REG_RIP] = greg_t(reinterpret_cast<uintptr_t>(&after_fault));
    registers[REG_EFL] &= ~greg_t(0x400); // direction
}

// Again before every launch: others may have put theirs in front, and theirs need not pass on.
void install_fault_handler() {
    for (int signal : signals) {
        struct sigaction now;
        sigaction(signal, nullptr, &now);
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_signal) continue;
        earlier[signal] = now;
        struct sigaction ours = {};
        ours.sa_sigaction = on_signal;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigfillset(&ours.sa_mask);
        sigaction(signal, &ours, nullptr);
    }
}

void adopt_host_thread() {
    stack_t stack = {};
    stack.ss_size = 64 << 10;
    stack.ss_sp = malloc(stack.ss_size);
    sigaltstack(&stack, nullptr);
}

} // namespace emu
