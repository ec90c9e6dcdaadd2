/* What the benchmark compares camem with: plain C loops over the same library's calls. Every function that measures writes
 * nanoseconds, and returns 0 or the first code that AscendCL refused with. Used by one thread at a time. */
#ifndef LOOPS_H
#define LOOPS_H

#include "../../test/samples/acl.h"

#include <stdbool.h>
#include <time.h>

#define LOOPS_EXPORT __attribute__((visibility("default")))

/* AscendCL as it was opened. */
typedef struct {
    __typeof__(aclrtSetDevice) *setDevice;
    __typeof__(aclrtResetDevice) *resetDevice;
    __typeof__(aclrtSynchronizeDevice) *synchronizeDevice;
    __typeof__(aclrtCreateStream) *createStream;
    __typeof__(aclrtDestroyStream) *destroyStream;
    __typeof__(aclrtSynchronizeStream) *synchronizeStream;
    __typeof__(aclrtMallocHost) *mallocHost;
    __typeof__(aclrtFreeHost) *freeHost;
    __typeof__(aclrtMemcpy) *memcpy;
    __typeof__(aclrtMemcpyAsync) *memcpyAsync;
    __typeof__(aclrtReserveMemAddress) *reserveMemAddress;
    __typeof__(aclrtReleaseMemAddress) *releaseMemAddress;
    __typeof__(aclrtMallocPhysical) *mallocPhysical;
    __typeof__(aclrtFreePhysical) *freePhysical;
    __typeof__(aclrtMapMem) *mapMem;
    __typeof__(aclrtUnmapMem) *unmapMem;
} loops_api;

extern loops_api acl;
extern int32_t loops_device;

uint64_t loops_now(clockid_t clock);

/* Leaves the function with the code of a call that failed. */
#define LOOPS_TRY(call)                       \
    do {                                      \
        aclError code_ = (call);              \
        if (code_ != ACL_SUCCESS) return code_; \
    } while (0)

/* Opens the library at `path` and `device` on the calling thread; -1 when it lacks a function. */
LOOPS_EXPORT int loops_open(const char *path, int32_t device);
LOOPS_EXPORT int loops_close(void);

/* One range of device memory. */
typedef struct {
    uint64_t address;
    uint64_t size;
} loops_range;

/* Segments of their own, all of one size; `loops_set_create` maps them. NULL when AscendCL refused. */
typedef struct loops_set loops_set;
LOOPS_EXPORT loops_set *loops_set_create(uint64_t count, uint64_t size);
LOOPS_EXPORT int loops_set_destroy(loops_set *set);
/* Where they are, one range each. */
LOOPS_EXPORT void loops_set_ranges(const loops_set *set, loops_range *ranges);
/* Synchronise once; then for each segment unmap and free the physical memory. */
LOOPS_EXPORT int loops_set_unmap(loops_set *set, uint64_t *nanoseconds);
/* For each segment allocate physical memory and map it. */
LOOPS_EXPORT int loops_set_map(loops_set *set, uint64_t *nanoseconds);
/* The peers' sleep. For each segment: page-lock host memory, copy and wait, unmap, free. */
LOOPS_EXPORT int loops_peers_sleep(loops_set *set, uint64_t *nanoseconds);
/* The peers' wake-up. For each segment: allocate physical memory, map, copy and wait, free the host memory. */
LOOPS_EXPORT int loops_peers_wake(loops_set *set, uint64_t *nanoseconds);
/* What malloc and free of one segment are made of, `repetitions` times; the sums of both. */
LOOPS_EXPORT int loops_latency(uint64_t size, uint64_t repetitions, uint64_t *map_nanoseconds, uint64_t *unmap_nanoseconds);

/* By whom bytes are copied: the processor, where device memory can be addressed by it, or the device's copy engines. */
enum { LOOPS_BY_THREADS = 0, LOOPS_BY_STREAMS = 1 };

/* Page-locked memory, NULL when AscendCL refused. */
LOOPS_EXPORT void *loops_host_create(uint64_t size);
LOOPS_EXPORT int loops_host_destroy(void *host);
/* Copies all ranges to the host memory or back over `lanes` threads or streams. Host memory that is shorter than the ranges
 * together is used again from its start. Of threads it also tells how long they ran, all together: less than they took where
 * the machine had other things to do. */
LOOPS_EXPORT int loops_copy(const loops_range *ranges, uint64_t count, void *host, uint64_t host_size, int to_host, int by, uint64_t lanes,
                            uint64_t *nanoseconds, uint64_t *running_nanoseconds);
/* Starts the same copy on threads of its own; `loops_copy_poll` is 1 once it has ended. Only by threads. */
LOOPS_EXPORT int loops_copy_begin(const loops_range *ranges, uint64_t count, void *host, uint64_t host_size, int to_host, uint64_t lanes);
LOOPS_EXPORT int loops_copy_poll(void);
/* Reads a file from its start into page-locked staging, piece by piece, and copies each piece to the ranges. */
LOOPS_EXPORT int loops_copy_file(int file, const loops_range *ranges, uint64_t count, void *staging, uint64_t staging_size, uint64_t lanes,
                                 uint64_t *nanoseconds);

#endif
