/* The strict runtime: a second libascendcl.so for the tests, as strict as AscendCL's documents permit. It shares no code with
 * the emulator, so that one misreading cannot be on both sides of a test. Where the real library has a choice, this one takes
 * the least convenient: the CPU can never read device addresses, queued copies run as late as the rules allow, fresh memory
 * holds garbage, failed calls overwrite their out-parameters, and every misuse is counted.
 *
 * Environment: STRICT_HBM (bytes of each device, 8 GiB), STRICT_DEVICES (2), STRICT_FAULTS (see strict_set_faults), and for
 * behaviour that no document defines: STRICT_REUSE_ADDRESSES (1: reuses the address released last when it is long enough; by
 * default no address is reused) and STRICT_STALE_CONTEXT (the answer of aclrtGetCurrentContext about a destroyed context:
 * "keep" returns it, "107000" fails with that code; by default there is no context, 107002). */
#ifndef STRICT_H
#define STRICT_H

#define STRICT_EXPORT __attribute__((visibility("default")))
#define ACL_FUNCTION extern STRICT_EXPORT
#include "../../support/acl.h"

#include <stdbool.h>

/* Codes that the shared declarations lack. */
enum {
    STRICT_ERROR_AICORE_OVERFLOW = 207003,
    STRICT_ERROR_AIVEC_OVERFLOW = 207016,
    STRICT_ERROR_OVERFLOW = 207017,
    STRICT_ERROR_TIMEOUT = 207020,
    STRICT_ERROR_END_OF_SEQUENCE = 507005,
    STRICT_ERROR_REPORT_TIMEOUT = 507012,
    STRICT_ERROR_DMA = 507013,
    STRICT_ERROR_MODEL_ABORT_NORMAL = 507023,
};

/* Objects that are alive; the test expects zeros at the end. */
typedef struct {
    uint64_t physical_handles;
    uint64_t physical_bytes;
    uint64_t reservations;
    uint64_t mappings;
    uint64_t host_blocks;
    uint64_t host_bytes;
    uint64_t streams;
    uint64_t events;
    uint64_t contexts;
    uint64_t device_references;
    uint64_t init_references;
    uint64_t queued_copies;
    uint64_t misuses;
    /* Calls since strict_set_faults, which numbers its faults by them. */
    uint64_t calls;
} strict_report_t;

STRICT_EXPORT int strict_report(strict_report_t *report);
/* One line for each misuse: the call and why. Valid until the next misuse. */
STRICT_EXPORT const char *strict_misuse_text(void);
/* "aclrtMapMem:3=507899,*:57=507010": from now on the third aclrtMapMem and the 57th call of all fail with these codes and
 * have no effect; "3+" means the third and every later one. A synchronise call that fails this way ends the queued copies half
 * done, except for codes that end only the wait (207020, 507012, 507046) and notices with which all work is done (207003 and
 * similar). Returns -1 for an invalid text. */
STRICT_EXPORT int strict_set_faults(const char *text);
/* Sets how long each aclrtSynchronizeStream takes. */
STRICT_EXPORT int strict_set_delay(uint32_t milliseconds);

/* Internal declarations. All functions except strict_begin require the mutex. */

#define STRICT_GRANULE ((size_t)2 << 20)
#define STRICT_MAX_DEVICES 16

typedef struct strict_context {
    struct strict_context *next;
    struct strict_stream *default_stream;
    uint32_t device;
    bool primary;
    bool alive;
} strict_context;

typedef struct strict_copy {
    struct strict_copy *next;
    uintptr_t target;
    /* 0 for a fill with `value`. */
    uintptr_t source;
    size_t bytes;
    uint8_t value;
} strict_copy;

typedef struct strict_stream {
    struct strict_stream *next;
    strict_context *context;
    strict_copy *first;
    /* The code of the next synchronise call. */
    aclError failure;
    bool is_default;
    bool alive;
} strict_stream;

typedef struct strict_physical {
    struct strict_physical *next;
    uint8_t *bytes;
    /* For each page: whether it has content or must still be filled with garbage. */
    uint8_t *written;
    size_t size;
    uint32_t device;
    uint32_t mappings;
    bool held;
} strict_physical;

typedef struct strict_mapping {
    struct strict_mapping *next;
    uintptr_t address;
    size_t size;
    strict_physical *physical;
} strict_mapping;

typedef enum { STRICT_ANYWHERE = 0, STRICT_CONTEXT = 1, STRICT_DEVICE = 2, STRICT_BEFORE_INIT = 4 } strict_needs;

/* Locks the mutex, counts the call and checks its requirements. The call must fail with a result other than 0. */
aclError strict_begin(const char *call, strict_needs needs);
aclError strict_end(aclError code);
/* strict_end of a call that is misuse. */
aclError strict_refuse(aclError code, const char *why, ...) __attribute__((format(printf, 2, 3)));
void strict_misuse(const char *why, ...) __attribute__((format(printf, 1, 2)));
/* True when strict_set_faults injected the code that strict_begin returned. */
bool strict_was_injected(void);

#define STRICT_BEGIN(needs)                                  \
    do {                                                     \
        aclError begun_ = strict_begin(__func__, (needs));   \
        if (begun_ != ACL_SUCCESS) return strict_end(begun_); \
    } while (0)

/* Overwrites an out-parameter: AscendCL does not define it after a failed call. */
#define STRICT_SCRIBBLE(out)                                  \
    do {                                                      \
        if (out) __builtin_memset((out), 0xE7, sizeof *(out)); \
    } while (0)

/* An opaque handle that faults when dereferenced and is never reused. */
void *strict_new_handle(void *object);
/* The object of a handle, or NULL. The caller checks whether the object is alive. */
void *strict_object(const void *handle);
void *strict_handle_of(const void *object);

bool strict_is_initialised(void);
uint32_t strict_device_count(void);
uint64_t strict_hbm_bytes(void);
/* A number from the environment. */
uint64_t strict_option(const char *name, uint64_t otherwise);
strict_context *strict_current(void);
bool strict_any_device_open(void);
strict_stream *strict_streams(void);
strict_stream *strict_new_stream(strict_context *context);
/* NULL is the default stream of the current context; NULL for a stale handle. */
strict_stream *strict_living_stream(aclrtStream handle);
void strict_count_runtime(strict_report_t *report);
void strict_count_events(strict_report_t *report);
/* Reports the events that are left on a context that closes. */
void strict_close_events(strict_context *context);
void strict_count_memory(strict_report_t *report);

uint64_t strict_used_bytes(uint32_t device);
strict_mapping *strict_mapping_at(uintptr_t address);
/* Reports everything that is left on a device that closes. */
void strict_close_device_memory(uint32_t device);

bool strict_is_device_address(uintptr_t address);
/* 1 when a range lies in one live page-locked block, 0 in none, -1 when it touches freed memory or a block's end. */
int strict_is_page_locked(uintptr_t address, size_t bytes);

void strict_run_queue(strict_stream *stream);
/* Ends the queued copies as an injected failure of a synchronise call does. */
void strict_fail_queue(strict_stream *stream, aclError code);
/* Whether a queued copy reads or writes the range. */
strict_copy *strict_queued_at(uintptr_t address, size_t bytes);
void strict_break_copies_at(uintptr_t address, size_t bytes);

#endif
