/* Initialisation, versions, devices, contexts and streams. */

#include "strict.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    uint64_t references;
    strict_context *primary;
} device_state;

static device_state devices[STRICT_MAX_DEVICES];
static strict_context *contexts;
static strict_stream *streams;
static uint64_t init_references;
static bool ever_initialised;
static uint64_t first_configuration;
static uint32_t delay_ms;
static _Thread_local strict_context *thread_context;

uint64_t strict_option(const char *name, uint64_t otherwise) {
    const char *value = getenv(name);
    return value && *value ? strtoull(value, NULL, 10) : otherwise;
}

bool strict_is_initialised(void) { return init_references > 0; }

uint32_t strict_device_count(void) {
    uint64_t count = strict_option("STRICT_DEVICES", 2);
    return count > STRICT_MAX_DEVICES ? STRICT_MAX_DEVICES : (uint32_t)count;
}

uint64_t strict_hbm_bytes(void) { return strict_option("STRICT_HBM", (uint64_t)8 << 30); }

/* A context that another thread destroyed is no longer current. */
strict_context *strict_current(void) { return thread_context && thread_context->alive ? thread_context : NULL; }

strict_stream *strict_streams(void) { return streams; }

static bool device_is_open(uint32_t device) {
    for (strict_context *context = contexts; context; context = context->next) {
        if (context->alive && context->device == device) return true;
    }
    return false;
}

bool strict_any_device_open(void) {
    for (uint32_t device = 0; device < STRICT_MAX_DEVICES; device++) {
        if (device_is_open(device)) return true;
    }
    return false;
}

void strict_count_runtime(strict_report_t *report) {
    report->init_references = init_references;
    for (uint32_t device = 0; device < STRICT_MAX_DEVICES; device++) report->device_references += devices[device].references;
    for (strict_context *context = contexts; context; context = context->next) report->contexts += context->alive;
    for (strict_stream *stream = streams; stream; stream = stream->next) {
        report->streams += stream->alive && !stream->is_default;
        for (strict_copy *copy = stream->first; copy; copy = copy->next) report->queued_copies++;
    }
}

static void *zeroed(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (!memory) abort();
    return memory;
}

strict_stream *strict_new_stream(strict_context *context) {
    strict_stream *stream = zeroed(sizeof *stream);
    *stream = (strict_stream){.next = streams, .context = context, .alive = true};
    streams = stream;
    strict_new_handle(stream);
    return stream;
}

static strict_context *new_context(uint32_t device, bool primary) {
    strict_context *context = zeroed(sizeof *context);
    *context = (strict_context){.next = contexts, .device = device, .primary = primary, .alive = true};
    contexts = context;
    strict_new_handle(context);
    context->default_stream = strict_new_stream(context);
    context->default_stream->is_default = true;
    return context;
}

/* Records of destroyed contexts and streams stay, so that stale handles are recognised. */
static void close_context(strict_context *context) {
    for (strict_stream *stream = streams; stream; stream = stream->next) {
        if (stream->context != context || !stream->alive) continue;
        if (!stream->is_default) strict_misuse("a stream of device %u is still alive", context->device);
        if (stream->first) strict_misuse("copies are still queued on device %u", context->device);
        strict_run_queue(stream);
        stream->alive = false;
    }
    strict_close_events(context);
    context->alive = false;
    if (!device_is_open(context->device)) strict_close_device_memory(context->device);
}

/* Initialisation. */

static bool hash_file(const char *path, uint64_t *hash) {
    *hash = 0;
    if (!path || !*path) return true;
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    *hash = 14695981039346656037u;
    for (int byte = fgetc(file); byte != EOF; byte = fgetc(file)) *hash = (*hash ^ (uint64_t)byte) * 1099511628211u;
    fclose(file);
    return true;
}

aclError aclInit(const char *configPath) {
    STRICT_BEGIN(STRICT_BEFORE_INIT);
    uint64_t configuration;
    if (!hash_file(configPath, &configuration)) return strict_refuse(ACL_ERROR_INVALID_FILE, "cannot read %s",
                                                                     configPath);
    if (ever_initialised && configuration != first_configuration) return strict_end(ACL_ERROR_INVALID_PARAM);
    ever_initialised = true;
    first_configuration = configuration;
    init_references++;
    return strict_end(init_references > 1 ? ACL_ERROR_REPEAT_INITIALIZE : ACL_SUCCESS);
}

static void check_nothing_is_alive(void) {
    strict_report_t report = {0};
    strict_count_runtime(&report);
    strict_count_events(&report);
    strict_count_memory(&report);
    uint64_t objects = report.physical_handles + report.reservations + report.mappings + report.host_blocks + report.streams +
                       report.events + report.contexts + report.device_references + report.queued_copies;
    if (objects > 0) strict_misuse("%llu objects are still alive", (unsigned long long)objects);
}

aclError aclFinalize(void) {
    STRICT_BEGIN(STRICT_BEFORE_INIT);
    if (init_references == 0) return strict_refuse(ACL_ERROR_REPEAT_FINALIZE, "AscendCL is not initialised");
    if (init_references > 1) strict_misuse("this takes AscendCL from %llu others",
                                           (unsigned long long)(init_references - 1));
    init_references = 0;
    check_nothing_is_alive();
    return strict_end(ACL_SUCCESS);
}

aclError aclFinalizeReference(uint64_t *refCount) {
    STRICT_SCRIBBLE(refCount);
    STRICT_BEGIN(STRICT_BEFORE_INIT);
    if (init_references == 0) return strict_refuse(ACL_ERROR_REPEAT_FINALIZE, "AscendCL is not initialised");
    init_references--;
    if (init_references == 0) check_nothing_is_alive();
    if (refCount) *refCount = init_references;
    return strict_end(ACL_SUCCESS);
}

/* The next call of the thread overwrites the returned text. */
const char *aclGetRecentErrMsg(void) {
    static _Thread_local char text[2][64];
    static _Thread_local unsigned which;
    memset(text[which % 2], '#', sizeof text[0] - 1);
    which++;
    snprintf(text[which % 2], sizeof text[0], "the strict library's message %u", which);
    return text[which % 2];
}

aclError aclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch) {
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!major || !minor || !patch) return strict_refuse(ACL_ERROR_INVALID_PARAM, "an argument is NULL");
    *major = 1;
    *minor = 17;
    *patch = 0;
    return strict_end(ACL_SUCCESS);
}

aclError aclsysGetVersionStr(char *pkgName, char *versionStr) {
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!pkgName || !versionStr) return strict_refuse(ACL_ERROR_INVALID_PARAM, "an argument is NULL");
    return strict_end(ACL_ERROR_INVALID_FILE);
}

const char *aclrtGetSocName(void) { return NULL; }

/* Devices. */

aclError aclrtGetDeviceCount(uint32_t *count) {
    STRICT_SCRIBBLE(count);
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!count) return strict_refuse(ACL_ERROR_INVALID_PARAM, "count is NULL");
    if (strict_device_count() == 0) return strict_end(ACL_ERROR_RT_NO_DEVICE);
    *count = strict_device_count();
    return strict_end(ACL_SUCCESS);
}

static bool is_device(int32_t device) { return device >= 0 && (uint32_t)device < strict_device_count(); }

aclError aclrtSetDevice(int32_t deviceId) {
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!is_device(deviceId)) return strict_refuse(ACL_ERROR_RT_INVALID_DEVICEID, "there is no device %d", deviceId);
    device_state *device = &devices[deviceId];
    if (device->references++ == 0) device->primary = new_context((uint32_t)deviceId, true);
    thread_context = device->primary;
    return strict_end(ACL_SUCCESS);
}

aclError aclrtResetDevice(int32_t deviceId) {
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!is_device(deviceId)) return strict_refuse(ACL_ERROR_RT_INVALID_DEVICEID, "there is no device %d", deviceId);
    device_state *device = &devices[deviceId];
    if (device->references == 0)
        return strict_refuse(ACL_ERROR_RT_CONTEXT_RELEASE_ERROR, "device %d was not set", deviceId);
    if (--device->references == 0) {
        close_context(device->primary);
        device->primary = NULL;
    }
    return strict_end(ACL_SUCCESS);
}

/* Synchronizes every stream of the current context's device, and no other. */
static void drain_device(aclError failure) {
    strict_context *current = strict_current();
    for (strict_stream *stream = streams; stream; stream = stream->next) {
        if (stream->context->device == current->device) strict_fail_queue(stream, failure);
    }
}

static aclError synchronize_device(const char *call, bool valid) {
    aclError begun = strict_begin(call, STRICT_CONTEXT);
    if (begun == ACL_SUCCESS && !valid)
        return strict_refuse(ACL_ERROR_RT_PARAM_INVALID, "the timeout is not -1 or above 0");
    if (strict_current() && (begun == ACL_SUCCESS || strict_was_injected())) drain_device(begun);
    return strict_end(begun);
}

aclError aclrtSynchronizeDevice(void) { return synchronize_device(__func__, true); }

aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeoutMs) {
    return synchronize_device(__func__, timeoutMs == -1 || timeoutMs > 0);
}

aclError aclrtGetMemInfo(aclrtMemAttr attr, size_t *free, size_t *total) {
    STRICT_SCRIBBLE(free);
    STRICT_SCRIBBLE(total);
    STRICT_BEGIN(STRICT_CONTEXT);
    if (!free || !total) return strict_refuse(ACL_ERROR_INVALID_PARAM, "an argument is NULL");
    if ((int)attr < 0 || attr > ACL_MEM_P2P_HUGE1G)
        return strict_refuse(ACL_ERROR_RT_INVALID_MEMORY_TYPE, "there is no memory type %d", (int)attr);
    *total = strict_hbm_bytes();
    *free = *total - strict_used_bytes(strict_current()->device);
    return strict_end(ACL_SUCCESS);
}

/* Contexts. */

aclError aclrtCreateContext(aclrtContext *context, int32_t deviceId) {
    STRICT_SCRIBBLE(context);
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!context) return strict_refuse(ACL_ERROR_INVALID_PARAM, "context is NULL");
    if (!is_device(deviceId)) return strict_refuse(ACL_ERROR_RT_INVALID_DEVICEID, "there is no device %d", deviceId);
    thread_context = new_context((uint32_t)deviceId, false);
    *context = strict_handle_of(thread_context);
    return strict_end(ACL_SUCCESS);
}

static strict_context *living_context(aclrtContext handle) {
    for (strict_context *context = contexts; context; context = context->next) {
        if (context == strict_object(handle)) return context->alive ? context : NULL;
    }
    return NULL;
}

aclError aclrtDestroyContext(aclrtContext handle) {
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!handle) return strict_refuse(ACL_ERROR_INVALID_PARAM, "context is NULL");
    strict_context *context = living_context(handle);
    if (!context || context->primary) return strict_refuse(ACL_ERROR_RT_CONTEXT_NULL,
                                                           "not a context of aclrtCreateContext");
    close_context(context);
    return strict_end(ACL_SUCCESS);
}

aclError aclrtSetCurrentContext(aclrtContext handle) {
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!handle) return strict_refuse(ACL_ERROR_INVALID_PARAM, "context is NULL");
    strict_context *context = living_context(handle);
    if (!context) return strict_refuse(ACL_ERROR_RT_PARAM_INVALID, "the context is stale or none");
    thread_context = context;
    return strict_end(ACL_SUCCESS);
}

/* No document says whether a destroyed context stays current. */
static aclError no_current_context(aclrtContext *context) {
    const char *stale = thread_context ? getenv("STRICT_STALE_CONTEXT") : NULL;
    if (!stale || !*stale) return ACL_ERROR_RT_CONTEXT_NULL;
    if (strcmp(stale, "keep") != 0) return ACL_ERROR_RT_PARAM_INVALID;
    *context = strict_handle_of(thread_context);
    return ACL_SUCCESS;
}

/* Asking a thread without a context is not misuse: a guest has no other way to find out. */
aclError aclrtGetCurrentContext(aclrtContext *context) {
    STRICT_SCRIBBLE(context);
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!context) return strict_refuse(ACL_ERROR_INVALID_PARAM, "context is NULL");
    if (!strict_current()) return strict_end(no_current_context(context));
    *context = strict_handle_of(strict_current());
    return strict_end(ACL_SUCCESS);
}

aclError aclrtGetPrimaryCtxState(int32_t deviceId, uint32_t *flags, int32_t *active) {
    STRICT_SCRIBBLE(active);
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!active || flags) return strict_refuse(ACL_ERROR_INVALID_PARAM, "active is NULL, or flags is not");
    if (!is_device(deviceId)) return strict_refuse(ACL_ERROR_RT_INVALID_DEVICEID, "there is no device %d", deviceId);
    *active = devices[deviceId].primary != NULL;
    return strict_end(ACL_SUCCESS);
}

/* Streams. */

aclError aclrtCreateStream(aclrtStream *stream) {
    STRICT_SCRIBBLE(stream);
    STRICT_BEGIN(STRICT_CONTEXT);
    if (!stream) return strict_refuse(ACL_ERROR_INVALID_PARAM, "stream is NULL");
    *stream = strict_handle_of(strict_new_stream(strict_current()));
    return strict_end(ACL_SUCCESS);
}

strict_stream *strict_living_stream(aclrtStream handle) {
    if (!handle) return strict_current() ? strict_current()->default_stream : NULL;
    for (strict_stream *stream = streams; stream; stream = stream->next) {
        if (stream == strict_object(handle)) return stream->alive ? stream : NULL;
    }
    return NULL;
}

aclError aclrtDestroyStream(aclrtStream handle) {
    STRICT_BEGIN(STRICT_CONTEXT);
    if (!handle) return strict_refuse(ACL_ERROR_INVALID_PARAM, "stream is NULL");
    strict_stream *stream = strict_living_stream(handle);
    if (!stream) return strict_refuse(ACL_ERROR_RT_INVALID_HANDLE, "the stream is stale or none");
    if (stream->context != strict_current())
        return strict_refuse(ACL_ERROR_RT_STREAM_CONTEXT, "the stream belongs to another context");
    if (stream->first) strict_misuse("copies are still queued");
    strict_run_queue(stream);
    stream->alive = false;
    return strict_end(ACL_SUCCESS);
}

int strict_set_delay(uint32_t milliseconds) {
    __atomic_store_n(&delay_ms, milliseconds, __ATOMIC_SEQ_CST);
    return 0;
}

aclError aclrtSynchronizeStream(aclrtStream handle) {
    uint32_t delay = __atomic_load_n(&delay_ms, __ATOMIC_SEQ_CST);
    struct timespec pause = {.tv_sec = delay / 1000, .tv_nsec = (long)(delay % 1000) * 1000000};
    nanosleep(&pause, NULL);
    aclError begun = strict_begin(__func__, STRICT_CONTEXT);
    strict_stream *stream = strict_living_stream(handle);
    if (begun != ACL_SUCCESS) {
        if (strict_was_injected() && stream) strict_fail_queue(stream, begun);
        return strict_end(begun);
    }
    if (!stream) return strict_refuse(ACL_ERROR_RT_INVALID_HANDLE, "the stream is stale or none");
    strict_run_queue(stream);
    aclError failure = stream->failure;
    stream->failure = ACL_SUCCESS;
    return strict_end(failure);
}
