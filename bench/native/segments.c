/* Mapping and unmapping, and the peers' sleep and wake-up. */

#include "loops.h"

#include <dlfcn.h>
#include <stdlib.h>

loops_api acl;
int32_t loops_device;

typedef struct {
    void *address;
    aclrtDrvMemHandle handle;
    void *host;
} segment;

struct loops_set {
    uint64_t count;
    uint64_t size;
    segment segments[];
};

uint64_t loops_now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static bool resolve(void *library) {
    struct {
        const char *name;
        void *slot;
    } const functions[] = {
        {"aclrtSetDevice", &acl.setDevice},
        {"aclrtResetDevice", &acl.resetDevice},
        {"aclrtSynchronizeDevice", &acl.synchronizeDevice},
        {"aclrtCreateStream", &acl.createStream},
        {"aclrtDestroyStream", &acl.destroyStream},
        {"aclrtSynchronizeStream", &acl.synchronizeStream},
        {"aclrtMallocHost", &acl.mallocHost},
        {"aclrtFreeHost", &acl.freeHost},
        {"aclrtMemcpy", &acl.memcpy},
        {"aclrtMemcpyAsync", &acl.memcpyAsync},
        {"aclrtReserveMemAddress", &acl.reserveMemAddress},
        {"aclrtReleaseMemAddress", &acl.releaseMemAddress},
        {"aclrtMallocPhysical", &acl.mallocPhysical},
        {"aclrtFreePhysical", &acl.freePhysical},
        {"aclrtMapMem", &acl.mapMem},
        {"aclrtUnmapMem", &acl.unmapMem},
    };
    for (size_t index = 0; index < sizeof functions / sizeof *functions; index++) {
        void *found = dlsym(library, functions[index].name);
        if (!found) return false;
        *(void **)functions[index].slot = found;
    }
    return true;
}

int loops_open(const char *path, int32_t device) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library || !resolve(library)) return -1;
    loops_device = device;
    return acl.setDevice(device);
}

int loops_close(void) { return acl.resetDevice(loops_device); }

static aclError map_segment(segment *segment, uint64_t size) {
    aclrtPhysicalMemProp prop = {
        .handleType = ACL_MEM_HANDLE_TYPE_NONE,
        .allocationType = ACL_MEM_ALLOCATION_TYPE_PINNED,
        .memAttr = ACL_HBM_MEM_HUGE,
        .location = {.id = (uint32_t)loops_device, .type = ACL_MEM_LOCATION_TYPE_DEVICE},
    };
    LOOPS_TRY(acl.mallocPhysical(&segment->handle, size, &prop, 0));
    return acl.mapMem(segment->address, size, 0, segment->handle, 0);
}

static aclError unmap_segment(const segment *segment) {
    LOOPS_TRY(acl.unmapMem(segment->address));
    return acl.freePhysical(segment->handle);
}

loops_set *loops_set_create(uint64_t count, uint64_t size) {
    loops_set *set = calloc(1, sizeof *set + count * sizeof *set->segments);
    if (!set) return NULL;
    set->size = size;
    for (; set->count < count; set->count++) {
        segment *next = &set->segments[set->count];
        aclError code = acl.reserveMemAddress(&next->address, size, 0, NULL, 0);
        if (code == ACL_SUCCESS) code = map_segment(next, size);
        if (code == ACL_SUCCESS) continue;
        loops_set_destroy(set);
        return NULL;
    }
    return set;
}

int loops_set_destroy(loops_set *set) {
    for (uint64_t index = 0; index < set->count; index++) {
        LOOPS_TRY(unmap_segment(&set->segments[index]));
        LOOPS_TRY(acl.releaseMemAddress(set->segments[index].address));
    }
    free(set);
    return 0;
}

void loops_set_ranges(const loops_set *set, loops_range *ranges) {
    for (uint64_t index = 0; index < set->count; index++)
        ranges[index] = (loops_range){.address = (uint64_t)set->segments[index].address, .size = set->size};
}

int loops_set_unmap(loops_set *set, uint64_t *nanoseconds) {
    uint64_t begun = loops_now(CLOCK_MONOTONIC);
    LOOPS_TRY(acl.synchronizeDevice());
    for (uint64_t index = 0; index < set->count; index++) LOOPS_TRY(unmap_segment(&set->segments[index]));
    *nanoseconds = loops_now(CLOCK_MONOTONIC) - begun;
    return 0;
}

int loops_set_map(loops_set *set, uint64_t *nanoseconds) {
    uint64_t begun = loops_now(CLOCK_MONOTONIC);
    for (uint64_t index = 0; index < set->count; index++) LOOPS_TRY(map_segment(&set->segments[index], set->size));
    *nanoseconds = loops_now(CLOCK_MONOTONIC) - begun;
    return 0;
}

int loops_peers_sleep(loops_set *set, uint64_t *nanoseconds) {
    uint64_t begun = loops_now(CLOCK_MONOTONIC);
    for (uint64_t index = 0; index < set->count; index++) {
        segment *next = &set->segments[index];
        LOOPS_TRY(acl.mallocHost(&next->host, set->size));
        LOOPS_TRY(acl.memcpy(next->host, set->size, next->address, set->size, ACL_MEMCPY_DEVICE_TO_HOST));
        LOOPS_TRY(unmap_segment(next));
    }
    *nanoseconds = loops_now(CLOCK_MONOTONIC) - begun;
    return 0;
}

int loops_peers_wake(loops_set *set, uint64_t *nanoseconds) {
    uint64_t begun = loops_now(CLOCK_MONOTONIC);
    for (uint64_t index = 0; index < set->count; index++) {
        segment *next = &set->segments[index];
        LOOPS_TRY(map_segment(next, set->size));
        LOOPS_TRY(acl.memcpy(next->address, set->size, next->host, set->size, ACL_MEMCPY_HOST_TO_DEVICE));
        LOOPS_TRY(acl.freeHost(next->host));
        next->host = NULL;
    }
    *nanoseconds = loops_now(CLOCK_MONOTONIC) - begun;
    return 0;
}

uint64_t loops_peers_host_bytes(const loops_set *set) {
    uint64_t bytes = 0;
    for (uint64_t index = 0; index < set->count; index++)
        if (set->segments[index].host) bytes += set->size;
    return bytes;
}

int loops_latency(uint64_t size, uint64_t repetitions, uint64_t *map_nanoseconds, uint64_t *unmap_nanoseconds) {
    *map_nanoseconds = *unmap_nanoseconds = 0;
    for (uint64_t repetition = 0; repetition < repetitions; repetition++) {
        segment one = {0};
        uint64_t begun = loops_now(CLOCK_MONOTONIC);
        LOOPS_TRY(acl.reserveMemAddress(&one.address, size, 0, NULL, 0));
        LOOPS_TRY(map_segment(&one, size));
        uint64_t mapped = loops_now(CLOCK_MONOTONIC);
        LOOPS_TRY(acl.synchronizeDevice());
        LOOPS_TRY(unmap_segment(&one));
        LOOPS_TRY(acl.releaseMemAddress(one.address));
        *map_nanoseconds += mapped - begun;
        *unmap_nanoseconds += loops_now(CLOCK_MONOTONIC) - mapped;
    }
    return 0;
}
