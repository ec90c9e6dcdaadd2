/* The common part of samples 7 and 8, which differ in the processes that may import: those on a list, or any. */
#ifndef CAMEM_TEST_SHARING_H
#define CAMEM_TEST_SHARING_H

#include <stdbool.h>

#include "exchange.h"
#include "kernels.h"
#include "sample.h"

struct shared_memory {
    aclrtDrvMemHandle handle;
    void *address;
    size_t granularity;
};

static const aclrtPhysicalMemProp sharing_prop = {
    .handleType = ACL_MEM_HANDLE_TYPE_NONE,
    .allocationType = ACL_MEM_ALLOCATION_TYPE_PINNED,
    .memAttr = ACL_HBM_MEM_NORMAL,
    .location = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_DEVICE},
};

static inline size_t sharing_granularity(void) {
    aclrtPhysicalMemProp prop = sharing_prop;
    size_t granularity = 0;
    CHECKED(aclrtMemGetAllocationGranularity(&prop, ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM, &granularity));
    return granularity;
}

static inline void sharing_map(struct shared_memory *memory) {
    aclrtMemAccessDesc access = {.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE, .location = sharing_prop.location};
    CHECKED(aclrtReserveMemAddress(&memory->address, memory->granularity, 0, NULL, 0));
    CHECKED(aclrtMapMem(memory->address, memory->granularity, 0, memory->handle, 0));
    CHECKED(aclrtMemSetAccess(memory->address, memory->granularity, &access, 1));
}

static inline int sharing_export(bool withPid) {
    aclrtStream stream = NULL;
    struct shared_memory memory = {0};
    uint64_t shareable = 0;
    uint64_t flags = withPid ? ACL_RT_VMM_EXPORT_FLAG_DEFAULT : ACL_RT_VMM_EXPORT_FLAG_DISABLE_PID_VALIDATION;
    int32_t importerPid = 0;
    int32_t flag = 0;
    UNCHECKED(aclInit(NULL));
    UNCHECKED(aclrtSetDevice(0));
    UNCHECKED(aclrtCreateStream(&stream));
    memory.granularity = sharing_granularity();
    size_t alignedBytes = (4096 + memory.granularity - 1) / memory.granularity * memory.granularity;
    CHECKED(aclrtMallocPhysical(&memory.handle, alignedBytes, &sharing_prop, 0));
    sharing_map(&memory);
    write_do(stream, memory.address, SOURCE_VALUE);
    CHECKED(aclrtMemExportToShareableHandle(memory.handle, ACL_MEM_HANDLE_TYPE_NONE, flags, &shareable));
    if (withPid) {
        exchange_read("file/pid.bin", &importerPid, sizeof(importerPid));
        CHECKED(aclrtMemSetPidToShareableHandle(shareable, &importerPid, 1));
    }
    let_kernels_finish();
    exchange_write("file/handle.bin", &shareable, sizeof(shareable));
    exchange_read("file/flag.bin", &flag, sizeof(flag));
    CHECKED(aclrtUnmapMem(memory.address));
    CHECKED(aclrtReleaseMemAddress(memory.address));
    CHECKED(aclrtFreePhysical(memory.handle));
    UNCHECKED(aclrtDestroyStreamForce(stream));
    UNCHECKED(aclrtResetDeviceForce(0));
    UNCHECKED(aclFinalize());
    return 0;
}

/* Requires an open device and `stream`; the two samples check these steps differently. */
static inline int sharing_import(bool withPid, aclrtStream stream) {
    struct shared_memory memory = {0};
    uint64_t shareable = 0;
    int32_t pid = 0;
    int32_t flag = 1;
    int *host = NULL;
    if (withPid) {
        CHECKED(aclrtDeviceGetBareTgid(&pid));
        exchange_write("file/pid.bin", &pid, sizeof(pid));
    }
    exchange_read("file/handle.bin", &shareable, sizeof(shareable));
    CHECKED(aclrtMemImportFromShareableHandle(shareable, 0, &memory.handle));
    memory.granularity = sharing_granularity();
    sharing_map(&memory);
    CHECKED(aclrtMallocHost((void **)&host, memory.granularity));
    CHECKED(aclrtMemcpy(host, memory.granularity, memory.address, memory.granularity, ACL_MEMCPY_DEVICE_TO_HOST));
    printf("Destination data: %d\n", *host);
    CHECKED(aclrtUnmapMem(memory.address));
    exchange_write("file/flag.bin", &flag, sizeof(flag));
    CHECKED(aclrtReleaseMemAddress(memory.address));
    CHECKED(aclrtFreePhysical(memory.handle));
    UNCHECKED(aclrtDestroyStreamForce(stream));
    UNCHECKED(aclrtFreeHost(host));
    UNCHECKED(aclrtResetDeviceForce(0));
    UNCHECKED(aclFinalize());
    return 0;
}

#endif
