// Streams and events.
#include <algorithm>

#include "api.h"

namespace emu {

struct Event {
    std::shared_ptr<EventState> state;
};

static Result cuStreamCreate(Stream** out, unsigned) {
    Call call;
    if (call.error) return call.error;
    *out = new Stream();
    (*out)->device = call.device;
    call.device->streams.push_back(*out);
    return success;
}

// Refused while a stream captures: what is asked for has no answer before the graph runs.
static bool breaks_capture(Stream* stream) {
    if (!stream->capture) return false;
    stream->capture->invalid = true;
    return true;
}

static Result cuStreamDestroy(void* handle) {
    Call call;
    if (call.error == not_initialized || call.error == invalid_context) return call.error;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr || stream == &call.device->null_stream) return invalid_handle;
    // What is queued still runs: the call does not wait for it.
    stream->leaving = true;
    forget_if_gone(stream);
    return success;
}

static Result cuStreamSynchronize(void* handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr) return invalid_handle;
    if (breaks_capture(stream)) return capture_unsupported;
    const uint64_t until = driver().operations; // later ones are not waited for
    wait_until(call.lock, [&] {
        return !stream->running && (stream->queue.empty() || stream->queue.front().number >= until);
    });
    return stream->device->error;
}

static Result cuStreamQuery(void* handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr) return invalid_handle;
    if (breaks_capture(stream)) return capture_unsupported;
    return drained(stream) ? success : not_ready;
}

static Result cuLaunchHostFunc(void* handle, void (*host)(void*), void* argument) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr) return invalid_handle;
    if (host == nullptr) return invalid_value;
    Operation operation(Operation::Kind::host);
    operation.host = host;
    operation.argument = argument;
    return enqueue(stream, std::move(operation));
}

// --- events

static Result cuEventCreate(Event** out, unsigned flags) {
    Call call;
    if (call.error) return call.error;
    *out = new Event{std::make_shared<EventState>()};
    (*out)->state->timed = !(flags & 2);
    return success;
}

static Result cuEventDestroy(Event* event) {
    std::lock_guard<std::mutex> lock(driver().mutex);
    delete event;
    return success;
}

static Result cuEventRecord(Event* event, void* handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr) return invalid_handle;
    EventState& state = *event->state;
    if (stream->capture) {
        if (stream->capture->invalid) return capture_invalidated;
        state.capture = stream->capture->graph.get();
        state.capture_after = stream->after;
        return success;
    }
    state.capture = nullptr;
    Operation operation(Operation::Kind::record);
    operation.event = event->state;
    operation.generation = ++state.recorded;
    return enqueue(stream, std::move(operation));
}

static std::shared_ptr<Capture> capture_into(const Graph* graph) {
    for (auto& weak : driver().captures)
        if (const auto capture = weak.lock(); capture && capture->graph.get() == graph)
            return capture;
    return nullptr;
}

// The stream goes on after the event, inside the event's capture.
static Result join_capture(Stream* stream, const EventState& event) {
    const auto capture = capture_into(event.capture);
    if (capture == nullptr) return captured_event;
    if (stream->capture && stream->capture != capture) return capture_isolation;
    if (!stream->capture) {
        stream->capture = capture;
        stream->origin = false;
        stream->after.clear();
    }
    for (uint32_t node : event.capture_after)
        if (std::find(stream->after.begin(), stream->after.end(), node) == stream->after.end())
            stream->after.push_back(node);
    return success;
}

static Result cuStreamWaitEvent(void* handle, Event* event, unsigned) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr) return invalid_handle;
    if (event->state->capture) return join_capture(stream, *event->state);
    if (stream->capture) {
        stream->capture->invalid = true;
        return capture_isolation;
    }
    if (event->state->recorded == 0) return success;
    Operation operation(Operation::Kind::wait);
    operation.event = event->state;
    operation.generation = event->state->recorded;
    return enqueue(stream, std::move(operation));
}

static Result cuEventQuery(Event* event) {
    Call call;
    if (call.error) return call.error;
    if (event->state->capture) return captured_event;
    if (Result refused = check_captures()) return refused;
    return event->state->done >= event->state->recorded ? success : not_ready;
}

static Result cuEventSynchronize(Event* event) {
    Call call;
    if (call.error) return call.error;
    if (event->state->capture) return captured_event;
    if (Result refused = check_captures()) return refused;
    const std::shared_ptr<EventState> state = event->state; // it may be destroyed meanwhile
    const uint64_t generation = state->recorded;
    wait_until(call.lock, [&] { return state->done >= generation; });
    return call.device->error;
}

static Result cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
    Call call;
    if (call.error) return call.error;
    const EventState &a = *start->state, &b = *end->state;
    if (a.capture || b.capture) return captured_event;
    if (!a.timed || !b.timed || a.recorded == 0 || b.recorded == 0) return invalid_handle;
    if (a.done < a.recorded || b.done < b.recorded) return not_ready;
    *milliseconds = float(double(int64_t(b.nanoseconds - a.nanoseconds)) * 1e-6);
    return success;
}

const Entry stream_entries[] = {
    EMU_ENTRY(cuStreamCreate),     EMU_ENTRY(cuStreamDestroy),    EMU_ENTRY(cuStreamSynchronize),
    EMU_ENTRY(cuStreamQuery),      EMU_ENTRY(cuStreamWaitEvent),  EMU_ENTRY(cuEventCreate),
    EMU_ENTRY(cuEventDestroy),     EMU_ENTRY(cuEventRecord),      EMU_ENTRY(cuEventQuery),
    EMU_ENTRY(cuEventSynchronize), EMU_ENTRY(cuEventElapsedTime), EMU_ENTRY(cuLaunchHostFunc),
    {nullptr, nullptr}};

} // namespace emu
