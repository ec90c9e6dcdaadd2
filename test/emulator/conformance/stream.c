/* Section 1.5: streams, events, and values that streams wait for. */
#define _GNU_SOURCE
#include <stdatomic.h>

#include "conformance.h"

enum { STREAM_LIMIT = 1984 };

/* Readable memory that is not a handle. */
static uint64_t no_handle[512];

static aclrtStream shared_stream;
static aclrtEvent shared_event;

static void streams_elsewhere(void) {
    aclrtStream stream = NULL;
    EXPECT("1.4 aclrtCreateStream without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtCreateStream(&stream));
    EXPECT("1.4 aclrtDestroyStream without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtDestroyStream(shared_stream));
    EXPECT("1.4 aclrtDestroyStreamForce without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtDestroyStreamForce(shared_stream));
    EXPECT("1.4 aclrtSynchronizeStream without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtSynchronizeStream(shared_stream));
}

static void streams(void) {
    aclrtStream stream = NULL;
    aclrtStreamStatus status = ACL_STREAM_STATUS_RESERVED;
    open_device();
    EXPECT("1.4 aclrtCreateStream without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtCreateStream(NULL));
    EXPECT("1.4 aclrtCreateStream → 0", 0, aclrtCreateStream(&shared_stream));
    EXPECT("1.4 aclrtCreateStreamWithConfig drops unknown flags → 0", 0,
           aclrtCreateStreamWithConfig(&stream, 0, 0x80000000u));
    REQUIRE(aclrtDestroyStream(stream));
    EXPECT("1.4 aclrtCreateStreamWithConfig with any priority → 0", 0,
           aclrtCreateStreamWithConfig(&stream, UINT32_MAX, ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC));
    EXPECT("1.4 aclrtDestroyStream(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtDestroyStream(NULL));
    EXPECT("1.4 aclrtDestroyStreamForce(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtDestroyStreamForce(NULL));
    EXPECT("1.4 aclrtSynchronizeStream of the default stream → 0", 0, aclrtSynchronizeStream(NULL));
    EXPECT("1.4 aclrtSynchronizeStream → 0", 0, aclrtSynchronizeStream(stream));
    EXPECT("1.4 aclrtSynchronizeStreamWithTimeout(-2) → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtSynchronizeStreamWithTimeout(stream, -2));
    EXPECT("1.4 aclrtSynchronizeStreamWithTimeout(0) → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtSynchronizeStreamWithTimeout(stream, 0));
    EXPECT("1.4 aclrtSynchronizeStreamWithTimeout(-1) → 0", 0, aclrtSynchronizeStreamWithTimeout(stream, -1));
    EXPECT("1.4 aclrtStreamQuery without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtStreamQuery(stream,
                                                                                                              NULL));
    EXPECT("1.4 aclrtStreamQuery of an idle stream → 0", 0, aclrtStreamQuery(stream, &status));
    EXPECT("1.4 an idle stream is complete", ACL_STREAM_STATUS_COMPLETE, status);
    block_stream(stream);
    EXPECT("1.4 aclrtStreamQuery of a busy stream → 0", 0, aclrtStreamQuery(stream, &status));
    EXPECT("1.4 a busy stream is not ready", ACL_STREAM_STATUS_NOT_READY, status);
    EXPECT("1.4 aclrtSynchronizeStreamWithTimeout that expires → timeout", ACL_ERROR_RT_STREAM_SYNC_TIMEOUT,
           aclrtSynchronizeStreamWithTimeout(stream, 30));
    open_gate_after(30);
    EXPECT("1.4 aclrtSynchronizeStream waits for the work → 0", 0, aclrtSynchronizeStream(stream));
    REQUIRE(aclrtStreamQuery(stream, &status));
    EXPECT("1.4 then the stream is complete", ACL_STREAM_STATUS_COMPLETE, status);
    on_new_thread(streams_elsewhere);
    EXPECT("1.4 aclrtDestroyStream → 0", 0, aclrtDestroyStream(stream));
    EXPECT("1.4 aclrtDestroyStream of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtDestroyStream(stream));
    EXPECT("1.4 aclrtSynchronizeStream of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtSynchronizeStream(stream));
    EXPECT("1.4 aclrtStreamQuery of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtStreamQuery(stream, &status));
    EXPECT("1.4 aclrtSynchronizeStream of no handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtSynchronizeStream(no_handle));
    close_device();
}

static atomic_int host_work_done;

static void slow_host_work(void *unused) {
    (void)unused;
    sleep_ms(60);
    atomic_fetch_add(&host_work_done, 1);
}

static void stream_destruction(void) {
    aclrtStream stream = NULL;
    void *memory = NULL;
    open_device();
    REQUIRE(aclrtCreateStream(&stream));
    REQUIRE(aclrtLaunchHostFunc(stream, slow_host_work, NULL));
    REQUIRE(aclrtLaunchHostFunc(stream, slow_host_work, NULL));
    EXPECT("1.4 aclrtDestroyStream of a busy stream → 0", 0, aclrtDestroyStream(stream));
    EXPECT("1.4 aclrtDestroyStream waited for the queued work", 2, atomic_load(&host_work_done));
    REQUIRE(aclrtMalloc(&memory, GRANULE, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtMemset(memory, GRANULE, 0, GRANULE));
    REQUIRE(aclrtCreateStream(&stream));
    REQUIRE(aclrtValueWait(memory, 1, ACL_STREAM_WAIT_VALUE_EQ, stream));
    EXPECT("1.4 aclrtDestroyStreamForce does not wait → 0", 0, aclrtDestroyStreamForce(stream));
    EXPECT("1.4 aclrtSynchronizeStream after it → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtSynchronizeStream(stream));
    REQUIRE(aclrtFree(memory));
    close_device();
}

static void streams_of_other_contexts(void) {
    aclrtContext explicit_context = NULL;
    aclrtStream stream = NULL;
    aclrtEvent event = NULL;
    aclrtStreamStatus status = ACL_STREAM_STATUS_RESERVED;
    open_device();
    REQUIRE(aclrtCreateStream(&stream));
    REQUIRE(aclrtCreateContext(&explicit_context, 0));
    REQUIRE(aclrtCreateEvent(&event));
    EXPECT("1.4 aclrtDestroyStream of another context's → other context", ACL_ERROR_RT_STREAM_CONTEXT,
           aclrtDestroyStream(stream));
    EXPECT("1.4 aclrtDestroyStreamForce of another context's → other context", ACL_ERROR_RT_STREAM_CONTEXT,
           aclrtDestroyStreamForce(stream));
    EXPECT("1.4 aclrtSynchronizeStream of another context's → 0", 0, aclrtSynchronizeStream(stream));
    EXPECT("1.4 aclrtStreamQuery of another context's → 0", 0, aclrtStreamQuery(stream, &status));
    EXPECT("1.5 aclrtRecordEvent on another context's stream → other context", ACL_ERROR_RT_STREAM_CONTEXT,
           aclrtRecordEvent(event, stream));
    EXPECT("1.5 aclrtStreamWaitEvent on another context's stream → other context", ACL_ERROR_RT_STREAM_CONTEXT,
           aclrtStreamWaitEvent(stream, event));
    REQUIRE(aclrtDestroyEvent(event));
    REQUIRE(aclrtDestroyContext(explicit_context));
    REQUIRE(aclrtSetDevice(0));
    REQUIRE(aclrtDestroyStream(stream));
    close_device();
}

static void stream_limit(void) {
    aclrtStream stream = NULL;
    aclError code = ACL_SUCCESS;
    int created = 0;
    open_device();
    while (created <= STREAM_LIMIT && (code = aclrtCreateStream(&stream)) == ACL_SUCCESS) created += 1;
    EXPECT("1.4 aclrtCreateStream past the device's limit → no stream", ACL_ERROR_RT_NO_STREAM_RESOURCE, code);
    close_device();
}

static void events_elsewhere(void) {
    aclrtEvent event = NULL;
    EXPECT("1.5 aclrtCreateEvent without a context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtCreateEvent(&event));
    EXPECT("1.5 aclrtRecordEvent without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtRecordEvent(shared_event, shared_stream));
    EXPECT("1.5 aclrtStreamWaitEvent without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtStreamWaitEvent(shared_stream, shared_event));
}

static void event_creation(void) {
    aclrtEvent event = NULL;
    static const struct {
        const char *name;
        uint32_t flag;
        aclError expected;
    } cases[] = {
        {"1.5 aclrtCreateEventWithFlag(0) → invalid", 0, ACL_ERROR_RT_PARAM_INVALID},
        {"1.5 aclrtCreateEventWithFlag(0x80) → invalid", 0x80, ACL_ERROR_RT_PARAM_INVALID},
        {"1.5 aclrtCreateEventWithFlag(device-only | sync) → invalid", 0x11, ACL_ERROR_RT_PARAM_INVALID},
        {"1.5 aclrtCreateEventWithFlag(external | sync) → invalid", 0x21, ACL_ERROR_RT_PARAM_INVALID},
        {"1.5 aclrtCreateEventWithFlag(sync) → 0", ACL_EVENT_SYNC, 0},
        {"1.5 aclrtCreateEventWithFlag(time line) → 0", ACL_EVENT_TIME_LINE, 0},
        {"1.5 aclrtCreateEventWithFlag(sync | progress | time line) → 0", 0xB, 0},
    };
    open_device();
    EXPECT("1.5 aclrtCreateEvent without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtCreateEvent(NULL));
    for (size_t index = 0; index < sizeof(cases) / sizeof(*cases); index += 1)
        EXPECT(cases[index].name, cases[index].expected, aclrtCreateEventWithFlag(&event, cases[index].flag));
    EXPECT("1.5 aclrtCreateEventExWithFlag(IPC | sync) → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtCreateEventExWithFlag(&event, 0x41));
    EXPECT("1.5 aclrtCreateEventExWithFlag(sync) → 0", 0, aclrtCreateEventExWithFlag(&event, ACL_EVENT_SYNC));
    close_device();
}

static void event_states(void) {
    aclrtEvent never = NULL, newer = NULL, event = NULL;
    aclrtEventRecordedStatus status = ACL_EVENT_RECORDED_STATUS_COMPLETE;
    aclrtEventStatus older = ACL_EVENT_STATUS_COMPLETE;
    open_device();
    REQUIRE(aclrtCreateStream(&shared_stream));
    REQUIRE(aclrtCreateEvent(&never));
    REQUIRE(aclrtCreateEvent(&event));
    REQUIRE(aclrtCreateEventExWithFlag(&newer, ACL_EVENT_SYNC));
    EXPECT("1.5 aclrtQueryEventStatus(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtQueryEventStatus(NULL, &status));
    EXPECT("1.5 aclrtQueryEventStatus without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtQueryEventStatus(event, NULL));
    EXPECT("1.5 aclrtSynchronizeEvent(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtSynchronizeEvent(NULL));
    EXPECT("1.5 aclrtRecordEvent(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtRecordEvent(NULL, shared_stream));
    EXPECT("1.5 aclrtStreamWaitEvent(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtStreamWaitEvent(shared_stream,
                                                                                                     NULL));
    EXPECT("1.5 aclrtDestroyEvent(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtDestroyEvent(NULL));
    EXPECT("1.5 aclrtQueryEventStatus of one never recorded → 0", 0, aclrtQueryEventStatus(never, &status));
    EXPECT("1.5 one never recorded is not ready", ACL_EVENT_RECORDED_STATUS_NOT_READY, status);
    EXPECT("1.5 aclrtQueryEventStatus of a newer one never recorded → 0", 0, aclrtQueryEventStatus(newer, &status));
    EXPECT("1.5 a newer one never recorded is complete", ACL_EVENT_RECORDED_STATUS_COMPLETE, status);
    EXPECT("1.5 aclrtSynchronizeEvent of one never recorded → 0", 0, aclrtSynchronizeEvent(never));
    block_stream(shared_stream);
    EXPECT("1.5 aclrtRecordEvent → 0", 0, aclrtRecordEvent(event, shared_stream));
    REQUIRE(aclrtQueryEventStatus(event, &status));
    EXPECT("1.5 a pending event is not ready", ACL_EVENT_RECORDED_STATUS_NOT_READY, status);
    EXPECT("1.5 aclrtQueryEvent of a pending event → 0", 0, aclrtQueryEvent(event, &older));
    EXPECT("8 aclrtQueryEvent says it with the opposite number", ACL_EVENT_STATUS_NOT_READY, older);
    EXPECT("1.5 aclrtSynchronizeEventWithTimeout that expires → timeout", ACL_ERROR_RT_EVENT_SYNC_TIMEOUT,
           aclrtSynchronizeEventWithTimeout(event, 30));
    open_gate_after(30);
    EXPECT("1.5 aclrtSynchronizeEvent waits → 0", 0, aclrtSynchronizeEvent(event));
    REQUIRE(aclrtQueryEventStatus(event, &status));
    EXPECT("1.5 then the event is complete", ACL_EVENT_RECORDED_STATUS_COMPLETE, status);
    shared_event = event;
    on_new_thread(events_elsewhere);
    EXPECT("1.5 aclrtDestroyEvent → 0", 0, aclrtDestroyEvent(event));
    EXPECT("1.5 aclrtDestroyEvent of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtDestroyEvent(event));
    EXPECT("1.5 aclrtRecordEvent of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtRecordEvent(event, shared_stream));
    EXPECT("1.5 aclrtStreamWaitEvent of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtStreamWaitEvent(shared_stream, event));
    close_device();
}

static void event_times(void) {
    aclrtEvent start = NULL, end = NULL;
    float elapsedMs = -1;
    open_device();
    REQUIRE(aclrtCreateStream(&shared_stream));
    REQUIRE(aclrtCreateEvent(&start));
    REQUIRE(aclrtCreateEvent(&end));
    EXPECT("1.5 aclrtEventElapsedTime without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtEventElapsedTime(NULL, start, end));
    EXPECT("1.5 aclrtEventElapsedTime without a start → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtEventElapsedTime(&elapsedMs, NULL, end));
    EXPECT("1.5 aclrtEventElapsedTime without an end → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtEventElapsedTime(&elapsedMs, start, NULL));
    REQUIRE(aclrtRecordEvent(start, shared_stream));
    REQUIRE(aclrtSynchronizeStream(shared_stream));
    EXPECT("1.5 aclrtEventElapsedTime to one never recorded → internal", ACL_ERROR_RT_INTERNAL_ERROR,
           aclrtEventElapsedTime(&elapsedMs, start, end));
    block_stream(shared_stream);
    REQUIRE(aclrtRecordEvent(end, shared_stream));
    EXPECT("1.5 aclrtEventElapsedTime to a pending one → no timestamp", ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
           aclrtEventElapsedTime(&elapsedMs, start, end));
    sleep_ms(50);
    open_gate();
    REQUIRE(aclrtSynchronizeStream(shared_stream));
    EXPECT("1.5 aclrtEventElapsedTime → 0", 0, aclrtEventElapsedTime(&elapsedMs, start, end));
    check_true("1.5 it is in milliseconds", elapsedMs >= 45 && elapsedMs < 10000);
    close_device();
}

static atomic_int order;

static void note_first(void *unused) {
    (void)unused;
    sleep_ms(40);
    atomic_store(&order, 1);
}

static void note_second(void *seen) { *(int *)seen = atomic_load(&order); }

static void stream_order(void) {
    aclrtStream first = NULL, second = NULL;
    aclrtEvent event = NULL;
    int seen = -1;
    open_device();
    REQUIRE(aclrtCreateStream(&first));
    REQUIRE(aclrtCreateStream(&second));
    REQUIRE(aclrtCreateEvent(&event));
    EXPECT("10 aclrtLaunchHostFunc without a function → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtLaunchHostFunc(first, NULL, NULL));
    EXPECT("10 aclrtLaunchCallback without a function → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtLaunchCallback(NULL, NULL, 0, first));
    EXPECT("1.5 aclrtStreamWaitEvent on an event never recorded → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtStreamWaitEvent(second, event));
    REQUIRE(aclrtLaunchHostFunc(first, note_first, NULL));
    REQUIRE(aclrtRecordEvent(event, first));
    EXPECT("1.5 aclrtStreamWaitEvent → 0", 0, aclrtStreamWaitEvent(second, event));
    REQUIRE(aclrtLaunchHostFunc(second, note_second, &seen));
    REQUIRE(aclrtSynchronizeStream(second));
    EXPECT("1.5 a stream's later work waits for the event of another", 1, seen);
    close_device();
}

static void value_waits(void) {
    aclrtStream first = NULL, second = NULL;
    void *memory = NULL;
    uint64_t onHost[2] = {0};
    uint64_t read = 0;
    open_device();
    REQUIRE(aclrtCreateStream(&first));
    REQUIRE(aclrtCreateStream(&second));
    REQUIRE(aclrtMalloc(&memory, GRANULE, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtMemset(memory, GRANULE, 0, GRANULE));
    EXPECT("7.1 aclrtValueWait(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtValueWait(NULL, 1,
                                                                                         ACL_STREAM_WAIT_VALUE_EQ, first));
    EXPECT("7.1 aclrtValueWrite(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtValueWrite(NULL, 1, 0, first));
    EXPECT("7.1 aclrtValueWait with an unknown flag → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtValueWait(memory, 1, 4,
                                                                                                           first));
    EXPECT("7.1 aclrtValueWrite with a flag → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtValueWrite(memory, 1, 1,
                                                                                                    first));
    EXPECT("7.1 aclrtValueWait on host memory → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtValueWait(onHost, 1,
                                                                                                     ACL_STREAM_WAIT_VALUE_EQ, first));
    EXPECT("7.1 aclrtValueWrite to host memory → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtValueWrite(onHost, 1, 0,
                                                                                                       first));
    EXPECT("7.1 aclrtValueWait → 0", 0, aclrtValueWait(memory, 7, ACL_STREAM_WAIT_VALUE_EQ, first));
    EXPECT("7.1 it holds its stream up", ACL_ERROR_RT_STREAM_SYNC_TIMEOUT, aclrtSynchronizeStreamWithTimeout(first,
                                                                                                             30));
    EXPECT("7.1 aclrtValueWrite → 0", 0, aclrtValueWrite(memory, 7, 0, second));
    EXPECT("7.1 the written value lets it go on", 0, aclrtSynchronizeStreamWithTimeout(first, 10000));
    REQUIRE(aclrtMemcpy(&read, sizeof(read), memory, sizeof(read), ACL_MEMCPY_DEVICE_TO_HOST));
    EXPECT("7.1 the value is in device memory", 7, read);
    close_device();
}

const struct group stream_groups[] = {
    {"streams", streams},
    {"stream destruction", stream_destruction},
    {"streams of other contexts", streams_of_other_contexts},
    {"stream limit", stream_limit},
    {"event creation", event_creation},
    {"event states", event_states},
    {"event times", event_times},
    {"stream order", stream_order},
    {"value waits", value_waits},
    {0},
};
