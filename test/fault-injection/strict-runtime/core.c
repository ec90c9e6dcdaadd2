/* The mutex, misuse, faults, handles and the report. */

#include "strict.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_FAULTS 64
#define MAX_HANDLES (1u << 20)
#define HANDLE_STRIDE 16

typedef struct {
    char call[64];
    uint64_t number;
    uint64_t seen;
    aclError code;
    bool and_later;
} fault;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const char *current_call = "";
static uint64_t calls;
static uint64_t misuses;
static char misuse_text[64 << 10];
static size_t misuse_length;
static fault faults[MAX_FAULTS];
static size_t fault_count;
static bool faults_read;
static bool injected;

static uint8_t *handle_base;
static void *handle_objects[MAX_HANDLES];
static size_t handle_count;

static void add_misuse(const char *why, va_list arguments) {
    misuses++;
    size_t room = sizeof misuse_text - misuse_length;
    int head = snprintf(misuse_text + misuse_length, room, "%s: ", current_call);
    if (head < 0 || (size_t)head + 2 >= room) return;
    int body = vsnprintf(misuse_text + misuse_length + head, room - (size_t)head - 1, why, arguments);
    if (body < 0 || (size_t)(head + body) + 2 >= room) return;
    misuse_length += (size_t)(head + body);
    misuse_text[misuse_length++] = '\n';
    misuse_text[misuse_length] = 0;
}

void strict_misuse(const char *why, ...) {
    va_list arguments;
    va_start(arguments, why);
    add_misuse(why, arguments);
    va_end(arguments);
}

aclError strict_refuse(aclError code, const char *why, ...) {
    va_list arguments;
    va_start(arguments, why);
    add_misuse(why, arguments);
    va_end(arguments);
    return strict_end(code);
}

static bool parse_fault(const char *item, size_t length, fault *out) {
    char text[128];
    if (length == 0 || length >= sizeof text) return false;
    memcpy(text, item, length);
    text[length] = 0;
    char *colon = strchr(text, ':');
    char *equals = colon ? strchr(colon, '=') : NULL;
    if (!equals || (size_t)(colon - text) >= sizeof out->call) return false;
    *colon = *equals = 0;
    char *end = NULL;
    memset(out, 0, sizeof *out);
    memcpy(out->call, text, (size_t)(colon - text) + 1);
    out->number = strtoull(colon + 1, &end, 10);
    out->and_later = *end == '+';
    if (out->and_later) end++;
    if (out->number == 0 || *end != 0) return false;
    out->code = (aclError)strtol(equals + 1, &end, 10);
    return out->code != 0 && *end == 0;
}

static int read_faults(const char *text) {
    faults_read = true;
    fault_count = 0;
    calls = 0;
    while (text && *text) {
        size_t length = strcspn(text, ",");
        if (fault_count == MAX_FAULTS || !parse_fault(text, length, &faults[fault_count])) return -1;
        fault_count++;
        text += length;
        if (*text == ',') text++;
    }
    return 0;
}

int strict_set_faults(const char *text) {
    pthread_mutex_lock(&mutex);
    int outcome = read_faults(text);
    pthread_mutex_unlock(&mutex);
    return outcome;
}

static aclError injected_fault(void) {
    if (!faults_read) read_faults(getenv("STRICT_FAULTS"));
    calls++;
    aclError code = ACL_SUCCESS;
    for (size_t index = 0; index < fault_count; index++) {
        fault *entry = &faults[index];
        if (strcmp(entry->call, "*") != 0 && strcmp(entry->call, current_call) != 0) continue;
        entry->seen++;
        bool hit = entry->and_later ? entry->seen >= entry->number : entry->seen == entry->number;
        if (hit && code == ACL_SUCCESS) code = entry->code;
    }
    return code;
}

bool strict_was_injected(void) { return injected; }

aclError strict_begin(const char *call, strict_needs needs) {
    pthread_mutex_lock(&mutex);
    current_call = call;
    injected = false;
    if (!(needs & STRICT_BEFORE_INIT) && !strict_is_initialised()) strict_misuse("AscendCL is not initialised");
    aclError code = injected_fault();
    if (code != ACL_SUCCESS) {
        injected = true;
        return code;
    }
    if ((needs & STRICT_CONTEXT) && !strict_current()) {
        strict_misuse("this thread has no current context");
        return ACL_ERROR_RT_CONTEXT_NULL;
    }
    if ((needs & STRICT_DEVICE) && !strict_any_device_open()) {
        strict_misuse("no device is open");
        return ACL_ERROR_RT_INVALID_HANDLE;
    }
    return ACL_SUCCESS;
}

aclError strict_end(aclError code) {
    pthread_mutex_unlock(&mutex);
    return code;
}

int strict_report(strict_report_t *report) {
    if (!report) return -1;
    pthread_mutex_lock(&mutex);
    memset(report, 0, sizeof *report);
    strict_count_runtime(report);
    strict_count_events(report);
    strict_count_memory(report);
    report->misuses = misuses;
    report->calls = calls;
    pthread_mutex_unlock(&mutex);
    return 0;
}

const char *strict_misuse_text(void) { return misuse_text; }

/* Handles are addresses of an inaccessible range; each is used once. */
void *strict_new_handle(void *object) {
    if (!handle_base) {
        void *range = mmap(NULL, (size_t)MAX_HANDLES * HANDLE_STRIDE, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (range == MAP_FAILED) abort();
        handle_base = range;
    }
    if (handle_count + 1 >= MAX_HANDLES) abort();
    handle_objects[++handle_count] = object;
    return handle_base + handle_count * HANDLE_STRIDE;
}

void *strict_object(const void *handle) {
    uintptr_t offset = (uintptr_t)handle - (uintptr_t)handle_base;
    if (!handle_base || (uintptr_t)handle < (uintptr_t)handle_base || offset % HANDLE_STRIDE != 0) return NULL;
    size_t index = offset / HANDLE_STRIDE;
    return index >= 1 && index <= handle_count ? handle_objects[index] : NULL;
}

void *strict_handle_of(const void *object) {
    for (size_t index = handle_count; index >= 1; index--) {
        if (handle_objects[index] == object) return handle_base + index * HANDLE_STRIDE;
    }
    return NULL;
}
