#include "engine.h"

#define MOST_BYTES ((size_t)32 << 20)

static aclrtPhysicalMemProp property_of(int device) {
    aclrtPhysicalMemProp prop = {0};
    prop.handleType = ACL_MEM_HANDLE_TYPE_NONE;
    prop.allocationType = ACL_MEM_ALLOCATION_TYPE_PINNED;
    prop.memAttr = ACL_HBM_MEM_HUGE;
    prop.location.type = ACL_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = (uint32_t)device;
    return prop;
}

aclError scratch_open(struct scratch *scratch, int device) {
    aclrtPhysicalMemProp prop = property_of(device);
    pthread_mutex_init(&scratch->mutex, NULL);
    scratch->mapped = 0;
    scratch->most = MOST_BYTES;
    TRY(aclrtMemGetAllocationGranularity(&prop, ACL_RT_MEM_ALLOC_GRANULARITY_RECOMMENDED, &scratch->granularity));
    TRY(aclrtReserveMemAddress(&scratch->base, scratch->most, 0, NULL, 0));
    return 0;
}

static aclError grow(struct scratch *scratch, int device) {
    aclrtPhysicalMemProp prop = property_of(device);
    aclrtMemAccessDesc access = {0};
    char *end = (char *)scratch->base + scratch->mapped;
    aclrtDrvMemHandle *handle = &scratch->handles[scratch->mapped / scratch->granularity];
    access.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE;
    access.location = prop.location;
    TRY(aclrtMallocPhysical(handle, scratch->granularity, &prop, 0));
    aclError code = aclrtMapMem(end, scratch->granularity, 0, *handle, 0);
    if (code != 0) {
        failed_call = "aclrtMapMem";
        aclrtFreePhysical(*handle);
        return code;
    }
    scratch->mapped += scratch->granularity;
    TRY(aclrtMemSetAccess(end, scratch->granularity, &access, 1));
    return 0;
}

static aclError shrink(struct scratch *scratch) {
    size_t left = scratch->mapped - scratch->granularity;
    TRY(aclrtUnmapMem((char *)scratch->base + left));
    scratch->mapped = left;
    TRY(aclrtFreePhysical(scratch->handles[left / scratch->granularity]));
    return 0;
}

/* With the mutex held. */
aclError scratch_resize(struct scratch *scratch, int device, size_t size) {
    while (scratch->mapped < size) TRY(grow(scratch, device));
    while (scratch->mapped >= size + scratch->granularity) TRY(shrink(scratch));
    return 0;
}

aclError scratch_close(struct scratch *scratch) {
    while (scratch->mapped > 0) TRY(shrink(scratch));
    TRY(aclrtReleaseMemAddress(scratch->base));
    return 0;
}
