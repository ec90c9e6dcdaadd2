/* Plain C loops over AscendCL, to compare camem with. Functions that measure write nanoseconds, and return 0 or the
 * first error code of AscendCL. Call them from one thread at a time. */
#ifndef LOOPS_H
#define LOOPS_H

#include "../../test/support/acl.h"

#include <stdbool.h>
#include <time.h>

#define LOOPS_EXPORT __attribute__((visibility("default")))

/* Functions of the opened library. */
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

/* Returns from the function with the error code of a failed call. */
#define LOOPS_TRY(call)                       \
    do {                                      \
        aclError code_ = (call);              \
        if (code_ != ACL_SUCCESS) return code_; \
    } while (0)

/* Opens the library at `path`, and `device` on the calling thread. Returns -1 if the library lacks a function. */
LOOPS_EXPORT int loops_open(const char *path, int32_t device);
LOOPS_EXPORT int loops_close(void);

/* One range of device memory. */
typedef struct {
    uint64_t address;
    uint64_t size;
} loops_range;

/* Segments of one size. `loops_set_create` maps them, and returns NULL if a call failed. */
typedef struct loops_set loops_set;
LOOPS_EXPORT loops_set *loops_set_create(uint64_t count, uint64_t size);
LOOPS_EXPORT int loops_set_destroy(loops_set *set);
/* Writes one range for each segment. */
LOOPS_EXPORT void loops_set_ranges(const loops_set *set, loops_range *ranges);
/* Synchronises once. Then unmaps each segment and frees its physical memory. */
LOOPS_EXPORT int loops_set_unmap(loops_set *set, uint64_t *nanoseconds);
/* Allocates physical memory for each segment and maps it. */
LOOPS_EXPORT int loops_set_map(loops_set *set, uint64_t *nanoseconds);
/* The peers' sleep. For each segment: page-lock host memory, copy and wait, unmap, free. */
LOOPS_EXPORT int loops_peers_sleep(loops_set *set, uint64_t *nanoseconds);
/* The peers' wake-up. For each segment: allocate physical memory, map, copy and wait, free the host memory. */
LOOPS_EXPORT int loops_peers_wake(loops_set *set, uint64_t *nanoseconds);
/* Bytes of host memory that hold the segments' content between the peers' sleep and wake-up. */
LOOPS_EXPORT uint64_t loops_peers_host_bytes(const loops_set *set);
/* The calls of malloc and free of one segment, `repetitions` times. Writes the sum of each. */
LOOPS_EXPORT int loops_latency(uint64_t size, uint64_t repetitions, uint64_t *map_nanoseconds,
                               uint64_t *unmap_nanoseconds);

/* What copies: threads, if the processor can address device memory, or the device's streams. */
enum { LOOPS_BY_THREADS = 0, LOOPS_BY_STREAMS = 1 };

/* Page-locked memory, or NULL if the call failed. */
LOOPS_EXPORT void *loops_host_create(uint64_t size);
LOOPS_EXPORT int loops_host_destroy(void *host);
/* Copies all ranges to the host memory or back, on `lanes` threads or streams. A copy larger than the host memory wraps
 * around to its start. `running_nanoseconds` is the processor time of all threads, which other load reduces. */
LOOPS_EXPORT int loops_copy(const loops_range *ranges, uint64_t count, void *host, uint64_t host_size, int to_host,
                            int by, uint64_t lanes, uint64_t *nanoseconds, uint64_t *running_nanoseconds);
/* Starts the same copy on new threads. `loops_copy_poll` returns 1 once it has ended. */
LOOPS_EXPORT int loops_copy_begin(const loops_range *ranges, uint64_t count, void *host, uint64_t host_size,
                                  int to_host, uint64_t lanes);
LOOPS_EXPORT int loops_copy_poll(void);
/* Reads a file from its start into page-locked staging, piece by piece, and copies each piece to the ranges. */
LOOPS_EXPORT int loops_copy_file(int file, const loops_range *ranges, uint64_t count, void *staging,
                                 uint64_t staging_size, uint64_t lanes, uint64_t *nanoseconds);
/* Removes a file that was written back from the page cache. */
LOOPS_EXPORT int loops_forget_file(int file);

#endif
