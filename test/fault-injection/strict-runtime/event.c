/* Events: work of one stream that another one can wait for. */

#include "strict.h"

#include <stdlib.h>

typedef struct strict_event {
    struct strict_event *next;
    strict_context *context;
    /* Where it was recorded last. */
    strict_stream *recorded;
    bool alive;
} strict_event;

/* Records of destroyed events stay, so that stale handles are recognised. */
static strict_event *events;

void strict_count_events(strict_report_t *report) {
    for (strict_event *event = events; event; event = event->next) report->events += event->alive;
}

void strict_close_events(strict_context *context) {
    for (strict_event *event = events; event; event = event->next) {
        if (event->context != context || !event->alive) continue;
        strict_misuse("an event of device %u is still alive", context->device);
        event->alive = false;
    }
}

static strict_event *living_event(aclrtEvent handle) {
    for (strict_event *event = events; event; event = event->next) {
        if (event == strict_object(handle)) return event->alive ? event : NULL;
    }
    return NULL;
}

aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flag) {
    STRICT_SCRIBBLE(event);
    STRICT_BEGIN(STRICT_CONTEXT);
    if (!event || flag != 1) return strict_refuse(ACL_ERROR_INVALID_PARAM, "event is NULL, or the flag is unknown");
    strict_event *created = calloc(1, sizeof *created);
    if (!created) abort();
    *created = (strict_event){.next = events, .context = strict_current(), .alive = true};
    events = created;
    strict_new_handle(created);
    *event = strict_handle_of(created);
    return strict_end(ACL_SUCCESS);
}

aclError aclrtRecordEvent(aclrtEvent handle, aclrtStream stream_handle) {
    STRICT_BEGIN(STRICT_CONTEXT);
    strict_event *event = handle ? living_event(handle) : NULL;
    strict_stream *stream = strict_living_stream(stream_handle);
    if (!event || !stream) return strict_refuse(ACL_ERROR_RT_INVALID_HANDLE, "the event or the stream is stale or none");
    if (event->context != strict_current() || stream->context != strict_current())
        return strict_refuse(ACL_ERROR_RT_STREAM_CONTEXT, "the event or the stream belongs to another context");
    event->recorded = stream;
    return strict_end(ACL_SUCCESS);
}

/* What the event stands for runs at once: the rules allow it to run at any time. */
aclError aclrtStreamWaitEvent(aclrtStream stream_handle, aclrtEvent handle) {
    STRICT_BEGIN(STRICT_CONTEXT);
    strict_event *event = handle ? living_event(handle) : NULL;
    strict_stream *stream = strict_living_stream(stream_handle);
    if (!event || !stream) return strict_refuse(ACL_ERROR_RT_INVALID_HANDLE, "the event or the stream is stale or none");
    if (event->context != strict_current() || stream->context != strict_current())
        return strict_refuse(ACL_ERROR_RT_STREAM_CONTEXT, "the event or the stream belongs to another context");
    if (!event->recorded) return strict_refuse(ACL_ERROR_RT_PARAM_INVALID, "the event was never recorded");
    strict_run_queue(event->recorded);
    return strict_end(ACL_SUCCESS);
}

aclError aclrtDestroyEvent(aclrtEvent handle) {
    STRICT_BEGIN(STRICT_CONTEXT);
    if (!handle) return strict_refuse(ACL_ERROR_INVALID_PARAM, "event is NULL");
    strict_event *event = living_event(handle);
    if (!event) return strict_refuse(ACL_ERROR_RT_INVALID_HANDLE, "the event is stale or none");
    if (event->recorded && event->recorded->alive && event->recorded->first)
        strict_misuse("copies before the event are still queued");
    event->alive = false;
    return strict_end(ACL_SUCCESS);
}
