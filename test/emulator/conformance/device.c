/* Sections 1.3, 1.4 and 1.8: devices, contexts, and which calls need a context. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "conformance.h"

enum { FAR_TOO_HIGH_ID = 1 << 20 };

static void device_elsewhere(void) {
    int32_t device = -1;
    EXPECT("1.2 aclrtGetDevice on a new thread → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtGetDevice(&device));
    EXPECT("1.2 aclrtSynchronizeDevice on a new thread → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtSynchronizeDevice());
}

static void devices(void) {
    uint32_t count = 0;
    int32_t device = -1;
    aclrtContext context = NULL;
    REQUIRE(aclInit(NULL));
    EXPECT("1.2 aclrtGetDeviceCount without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtGetDeviceCount(NULL));
    EXPECT("1.2 aclrtGetDeviceCount without a context → 0", 0, aclrtGetDeviceCount(&count));
    check_true("1.2 there is a device", count >= 1);
    EXPECT("1.2 aclrtGetDevice before aclrtSetDevice → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtGetDevice(&device));
    EXPECT("1.2 aclrtSynchronizeDevice before aclrtSetDevice → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtSynchronizeDevice());
    EXPECT("1.2 aclrtSetDevice(-1) → bad device", ACL_ERROR_RT_INVALID_DEVICEID, aclrtSetDevice(-1));
    EXPECT("1.2 aclrtSetDevice(count) → bad device", ACL_ERROR_RT_INVALID_DEVICEID, aclrtSetDevice((int32_t)count));
    EXPECT("1.2 aclrtResetDevice(-1) → bad device", ACL_ERROR_RT_INVALID_DEVICEID, aclrtResetDevice(-1));
    EXPECT("1.2 aclrtResetDevice(count) → bad device", ACL_ERROR_RT_INVALID_DEVICEID, aclrtResetDevice((int32_t)count));
    EXPECT("1.2 aclrtResetDeviceForce(count) → bad device", ACL_ERROR_RT_INVALID_DEVICEID,
           aclrtResetDeviceForce((int32_t)count));
    EXPECT("1.2 aclrtResetDevice of a device never set → release error", ACL_ERROR_RT_CONTEXT_RELEASE_ERROR,
           aclrtResetDevice(0));
    EXPECT("1.2 aclrtResetDeviceForce of a device never set → release error", ACL_ERROR_RT_CONTEXT_RELEASE_ERROR,
           aclrtResetDeviceForce(0));
    EXPECT("1.2 aclrtSetDevice(0) → 0", 0, aclrtSetDevice(0));
    EXPECT("1.2 aclrtGetDevice without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetDevice(NULL));
    EXPECT("1.2 aclrtGetDevice → 0", 0, aclrtGetDevice(&device));
    EXPECT("1.2 aclrtGetDevice tells the device", 0, device);
    on_new_thread(device_elsewhere);
    EXPECT("1.2 aclrtSetDevice again → 0", 0, aclrtSetDevice(0));
    EXPECT("1.2 aclrtResetDevice of two → 0", 0, aclrtResetDevice(0));
    EXPECT("1.2 the context outlives the first of two resets", 0, aclrtGetCurrentContext(&context));
    EXPECT("1.2 aclrtResetDevice of the last → 0", 0, aclrtResetDevice(0));
    EXPECT("1.8 no valid context after the last reset", ACL_ERROR_RT_CONTEXT_NULL, aclrtSynchronizeDevice());
    EXPECT("1.3 aclrtSetCurrentContext of the dead primary context → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtSetCurrentContext(context));
    EXPECT("1.2 aclrtResetDevice past the last → release error", ACL_ERROR_RT_CONTEXT_RELEASE_ERROR,
           aclrtResetDevice(0));
    for (int round = 0; round < 3; round += 1) REQUIRE(aclrtSetDevice(0));
    EXPECT("1.2 aclrtResetDeviceForce of three → 0", 0, aclrtResetDeviceForce(0));
    EXPECT("1.2 aclrtResetDeviceForce again → release error", ACL_ERROR_RT_CONTEXT_RELEASE_ERROR,
           aclrtResetDeviceForce(0));
    EXPECT("1.2 aclrtResetDevice after force → release error", ACL_ERROR_RT_CONTEXT_RELEASE_ERROR, aclrtResetDevice(0));
}

static void visible_duplicates(void) {
    uint32_t count = 0;
    setenv("ASCEND_RT_VISIBLE_DEVICES", "0,0", 1);
    EXPECT("1.2 aclrtGetDeviceCount with a device named twice → no device", ACL_ERROR_RT_NO_DEVICE,
           aclrtGetDeviceCount(&count));
}

static void visible_disorder(void) {
    uint32_t count = 0;
    setenv("ASCEND_RT_VISIBLE_DEVICES", "1,0", 1);
    EXPECT("1.2 aclrtGetDeviceCount with devices out of order → no device", ACL_ERROR_RT_NO_DEVICE,
           aclrtGetDeviceCount(&count));
}

static void visible_one(void) {
    uint32_t count = 0;
    setenv("ASCEND_RT_VISIBLE_DEVICES", "0", 1);
    EXPECT("6 aclrtGetDeviceCount with one device visible → 0", 0, aclrtGetDeviceCount(&count));
    EXPECT("6 only the visible device counts", 1, count);
}

static void device_waits(void) {
    aclrtStream stream = NULL;
    open_device();
    REQUIRE(aclrtCreateStream(&stream));
    EXPECT("1.2 aclrtSynchronizeDevice → 0", 0, aclrtSynchronizeDevice());
    EXPECT("1.2 aclrtSynchronizeDeviceWithTimeout(-1) → 0", 0, aclrtSynchronizeDeviceWithTimeout(-1));
    EXPECT("1.2 aclrtSynchronizeDeviceWithTimeout(-2) → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtSynchronizeDeviceWithTimeout(-2));
    EXPECT("1.2 aclrtSynchronizeDeviceWithTimeout(0) → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtSynchronizeDeviceWithTimeout(0));
    block_stream(stream);
    EXPECT("1.2 aclrtSynchronizeDeviceWithTimeout that expires → timeout", ACL_ERROR_RT_STREAM_SYNC_TIMEOUT,
           aclrtSynchronizeDeviceWithTimeout(30));
    open_gate_after(30);
    EXPECT("1.2 aclrtSynchronizeDevice with work queued → 0", 0, aclrtSynchronizeDevice());
    aclrtStreamStatus status = ACL_STREAM_STATUS_RESERVED;
    REQUIRE(aclrtStreamQuery(stream, &status));
    EXPECT("1.2 aclrtSynchronizeDevice waited for the work", ACL_STREAM_STATUS_COMPLETE, status);
    REQUIRE(aclrtDestroyStream(stream));
    close_device();
}

static void enable_peer_elsewhere(void) {
    EXPECT("1.2 aclrtDeviceEnablePeerAccess without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtDeviceEnablePeerAccess(1, 0));
}

static void peers_and_pid(void) {
    int32_t can = -1;
    int32_t pid = 0;
    EXPECT("1.2 aclrtDeviceGetBareTgid without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtDeviceGetBareTgid(NULL));
    EXPECT("1.2 aclrtDeviceGetBareTgid without a context → 0", 0, aclrtDeviceGetBareTgid(&pid));
    check_true("1.2 aclrtDeviceGetBareTgid tells a pid", pid > 0);
    open_device();
    EXPECT("1.2 aclrtDeviceCanAccessPeer of a device and itself → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtDeviceCanAccessPeer(&can, 0, 0));
    EXPECT("1.2 that comes before the out-pointer's check", ACL_ERROR_INVALID_PARAM, aclrtDeviceCanAccessPeer(NULL, 0,
                                                                                                              0));
    EXPECT("1.2 aclrtDeviceCanAccessPeer of an id beyond the maximum → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtDeviceCanAccessPeer(&can, FAR_TOO_HIGH_ID, 0));
    EXPECT("1.2 aclrtDeviceEnablePeerAccess with flags → unsupported", ACL_ERROR_FEATURE_UNSUPPORTED,
           aclrtDeviceEnablePeerAccess(1, 1));
    EXPECT("1.2 aclrtDeviceEnablePeerAccess of the current device → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtDeviceEnablePeerAccess(0, 0));
    EXPECT("1.2 aclrtDeviceDisablePeerAccess of the current device → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtDeviceDisablePeerAccess(0));
    on_new_thread(enable_peer_elsewhere);
    if (device_count() >= 2) {
        EXPECT("1.2 aclrtDeviceCanAccessPeer without an out-pointer → invalid", ACL_ERROR_RT_PARAM_INVALID,
               aclrtDeviceCanAccessPeer(NULL, 0, 1));
        EXPECT("1.2 aclrtDeviceCanAccessPeer of two devices → 0", 0, aclrtDeviceCanAccessPeer(&can, 0, 1));
        if (can == 1) EXPECT("1.2 aclrtDeviceEnablePeerAccess of another device → 0", 0, aclrtDeviceEnablePeerAccess(1,
                                                                                                                     0));
    }
    close_device();
}

static aclrtContext primary;
static aclrtContext explicit_context;

static void context_elsewhere(void) {
    aclrtContext context = NULL;
    EXPECT("1.3 aclrtGetCurrentContext on a new thread → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtGetCurrentContext(&context));
    EXPECT("1.3 aclrtSetCurrentContext on a new thread → 0", 0, aclrtSetCurrentContext(explicit_context));
    EXPECT("1.3 aclrtGetCurrentContext after aclrtSetCurrentContext → 0", 0, aclrtGetCurrentContext(&context));
    check_true("1.3 it is the one that was set", context == explicit_context);
    EXPECT("1.3 aclrtSetDevice on another thread → 0", 0, aclrtSetDevice(0));
    EXPECT("1.3 aclrtGetCurrentContext after aclrtSetDevice → 0", 0, aclrtGetCurrentContext(&context));
    check_true("1.3 all threads share a device's primary context", context == primary);
    EXPECT("1.3 its reset is counted → 0", 0, aclrtResetDevice(0));
}

static void contexts(void) {
    aclrtContext context = NULL;
    int32_t device = -1;
    open_device();
    EXPECT("1.3 aclrtGetCurrentContext without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtGetCurrentContext(NULL));
    EXPECT("1.3 aclrtGetCurrentContext → 0", 0, aclrtGetCurrentContext(&primary));
    check_true("1.3 the primary context is no null", primary != NULL);
    EXPECT("1.3 aclrtCreateContext without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtCreateContext(NULL,
                                                                                                                  0));
    EXPECT("1.3 aclrtCreateContext on a bad device → bad device", ACL_ERROR_RT_INVALID_DEVICEID,
           aclrtCreateContext(&context, (int32_t)device_count()));
    EXPECT("1.3 aclrtCreateContext → 0", 0, aclrtCreateContext(&explicit_context, 0));
    EXPECT("1.3 aclrtGetCurrentContext after aclrtCreateContext → 0", 0, aclrtGetCurrentContext(&context));
    check_true("1.3 a new context is the current one", context == explicit_context && context != primary);
    EXPECT("1.3 aclrtGetDevice in an explicit context → 0", 0, aclrtGetDevice(&device));
    EXPECT("1.3 the device follows the context", 0, device);
    on_new_thread(context_elsewhere);
    EXPECT("1.3 aclrtSetDevice again → 0", 0, aclrtSetDevice(0));
    EXPECT("1.3 aclrtGetCurrentContext after that → 0", 0, aclrtGetCurrentContext(&context));
    check_true("1.2 aclrtSetDevice replaces an explicit context", context == primary);
    EXPECT("1.3 aclrtSetCurrentContext(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtSetCurrentContext(NULL));
    EXPECT("1.3 aclrtDestroyContext(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtDestroyContext(NULL));
    EXPECT("1.3 aclrtDestroyContext of the primary context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtDestroyContext(primary));
    EXPECT("1.3 aclrtDestroyContext → 0", 0, aclrtDestroyContext(explicit_context));
    EXPECT("1.3 aclrtDestroyContext again → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtDestroyContext(explicit_context));
    EXPECT("1.3 aclrtSetCurrentContext of a destroyed one → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtSetCurrentContext(explicit_context));
    if (device_count() >= 2) {
        REQUIRE(aclrtCreateContext(&explicit_context, 1));
        REQUIRE(aclrtSetCurrentContext(primary));
        REQUIRE(aclrtSetCurrentContext(explicit_context));
        REQUIRE(aclrtGetDevice(&device));
        EXPECT("1.3 the device follows the context to another device", 1, device);
        REQUIRE(aclrtSetCurrentContext(primary));
        REQUIRE(aclrtDestroyContext(explicit_context));
    }
    close_device();
}

static struct {
    aclrtStream stream;
    aclrtEvent event;
    void *device;
    void *host;
    aclrtDrvMemHandle physical;
} kept;

static void calls_that_need_a_context(void) {
    void *pointer = NULL;
    aclrtStream stream = NULL;
    aclrtEvent event = NULL;
    aclrtContext context = NULL;
    aclrtStreamStatus status;
    aclrtDrvMemHandle handle = NULL;
    aclrtMemFabricHandle fabric = {{0}};
    uint64_t shareable = 1;
    uint32_t number = 0;
    int32_t device = 0;
    size_t free = 0, total = 0;
    const aclrtPhysicalMemProp numa = {.memAttr = ACL_MEM_NORMAL, .location = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_HOST_NUMA}};
    const struct {
        const char *name;
        aclError got;
    } cases[] = {
        {"aclrtCreateStream", aclrtCreateStream(&stream)},
        {"aclrtCreateStreamWithConfig", aclrtCreateStreamWithConfig(&stream, 0, ACL_STREAM_FAST_LAUNCH)},
        {"aclrtDestroyStream", aclrtDestroyStream(kept.stream)},
        {"aclrtSynchronizeStream", aclrtSynchronizeStream(kept.stream)},
        {"aclrtSynchronizeStreamWithTimeout", aclrtSynchronizeStreamWithTimeout(kept.stream, 100)},
        {"aclrtStreamQuery", aclrtStreamQuery(kept.stream, &status)},
        {"aclrtCreateEvent", aclrtCreateEvent(&event)},
        {"aclrtCreateEventWithFlag", aclrtCreateEventWithFlag(&event, ACL_EVENT_SYNC)},
        {"aclrtCreateEventExWithFlag", aclrtCreateEventExWithFlag(&event, ACL_EVENT_SYNC)},
        {"aclrtRecordEvent", aclrtRecordEvent(kept.event, kept.stream)},
        {"aclrtStreamWaitEvent", aclrtStreamWaitEvent(kept.stream, kept.event)},
        {"aclrtSynchronizeDevice", aclrtSynchronizeDevice()},
        {"aclrtSynchronizeDeviceWithTimeout", aclrtSynchronizeDeviceWithTimeout(100)},
        {"aclrtMalloc", aclrtMalloc(&pointer, KIB, ACL_MEM_MALLOC_HUGE_FIRST)},
        {"aclrtMallocAlign32", aclrtMallocAlign32(&pointer, KIB, ACL_MEM_MALLOC_HUGE_FIRST)},
        {"aclrtMallocCached", aclrtMallocCached(&pointer, KIB, ACL_MEM_MALLOC_NORMAL_ONLY)},
        {"aclrtMallocHost", aclrtMallocHost(&pointer, KIB)},
        {"aclrtHostRegister", aclrtHostRegister(kept.host, 4 * KIB, ACL_HOST_REGISTER_MAPPED, &pointer)},
        {"aclrtHostRegisterV2", aclrtHostRegisterV2(kept.host, 4 * KIB, ACL_HOST_REG_MAPPED)},
        {"aclrtHostUnregister", aclrtHostUnregister(kept.host)},
        {"aclrtMemcpy", aclrtMemcpy(kept.device, KIB, kept.host, KIB, ACL_MEMCPY_HOST_TO_DEVICE)},
        {"aclrtMemcpyAsync", aclrtMemcpyAsync(kept.device, KIB, kept.host, KIB, ACL_MEMCPY_HOST_TO_DEVICE,
                                              kept.stream)},
        {"aclrtMemset", aclrtMemset(kept.device, KIB, 0, KIB)},
        {"aclrtMemsetAsync", aclrtMemsetAsync(kept.device, KIB, 0, KIB, kept.stream)},
        {"aclrtGetMemInfo", aclrtGetMemInfo(ACL_HBM_MEM, &free, &total)},
        {"aclrtGetDevice", aclrtGetDevice(&device)},
        {"aclrtGetCurrentContext", aclrtGetCurrentContext(&context)},
        {"aclrtMallocPhysical with a NUMA node", aclrtMallocPhysical(&handle, GRANULE, &numa, 0)},
        {"aclrtMemExportToShareableHandleV2 (fabric)",
         aclrtMemExportToShareableHandleV2(kept.physical, 1, ACL_MEM_SHARE_HANDLE_TYPE_FABRIC, &fabric)},
        {"aclrtMemImportFromShareableHandle", aclrtMemImportFromShareableHandle(shareable, 0, &handle)},
        {"aclrtMemImportFromShareableHandleV2",
         aclrtMemImportFromShareableHandleV2(&shareable, ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT, 0, &handle)},
        {"aclrtDeviceEnablePeerAccess", aclrtDeviceEnablePeerAccess(1, 0)},
        {"aclrtDeviceDisablePeerAccess", aclrtDeviceDisablePeerAccess(1)},
        {"aclrtStreamGetFlags", aclrtStreamGetFlags(kept.stream, &number)},
        {"aclrtStreamGetPriority", aclrtStreamGetPriority(kept.stream, &number)},
        {"aclrtHostGetDevicePointer", aclrtHostGetDevicePointer(kept.host, &pointer, 0)},
        {"aclrtCtxGetCurrentDefaultStream", aclrtCtxGetCurrentDefaultStream(&stream)},
    };
    char name[128];
    for (size_t index = 0; index < sizeof(cases) / sizeof(*cases); index += 1) {
        snprintf(name, sizeof(name), "1.8 %s needs a context", cases[index].name);
        EXPECT(name, ACL_ERROR_RT_CONTEXT_NULL, cases[index].got);
    }
}

static void calls_that_need_none(void) {
    uint32_t count = 0;
    int32_t number = 0, minor = 0, patch = 0;
    aclrtRunMode mode;
    aclrtPtrAttributes attributes;
    aclrtEventRecordedStatus recorded;
    aclrtPhysicalMemProp prop = {.memAttr = ACL_HBM_MEM_HUGE, .location = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_DEVICE}};
    aclrtMemAccessDesc access = {.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE, .location = prop.location};
    aclrtDrvMemHandle handle = NULL, retained = NULL;
    void *reserved = NULL, *base = NULL;
    size_t size = 0;
    uint64_t flags = 0, shareable = 0;
    int32_t pid = getpid();
    EXPECT("1.8 aclrtGetDeviceCount needs no context", 0, aclrtGetDeviceCount(&count));
    EXPECT("1.8 aclrtGetRunMode needs no context", 0, aclrtGetRunMode(&mode));
    EXPECT("1.8 aclrtGetVersion needs no context", 0, aclrtGetVersion(&number, &minor, &patch));
    EXPECT("1.8 aclrtDeviceGetBareTgid needs no context", 0, aclrtDeviceGetBareTgid(&number));
    EXPECT("1.8 aclrtPointerGetAttributes needs no context", 0, aclrtPointerGetAttributes(kept.device, &attributes));
    EXPECT("1.8 aclrtMemGetAddressRange needs no context", 0, aclrtMemGetAddressRange(kept.device, &base, &size));
    EXPECT("1.8 aclrtMemGetAllocationGranularity needs no context", 0,
           aclrtMemGetAllocationGranularity(&prop, ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM, &size));
    EXPECT("1.8 aclrtReserveMemAddress needs no context", 0, aclrtReserveMemAddress(&reserved, GRANULE, 0, NULL, 0));
    EXPECT("1.8 aclrtMallocPhysical needs no context", 0, aclrtMallocPhysical(&handle, GRANULE, &prop, 0));
    EXPECT("1.8 aclrtMapMem needs no context", 0, aclrtMapMem(reserved, GRANULE, 0, handle, 0));
    EXPECT("1.8 aclrtMemSetAccess needs no context", 0, aclrtMemSetAccess(reserved, GRANULE, &access, 1));
    EXPECT("1.8 aclrtMemGetAccess needs no context", 0, aclrtMemGetAccess(reserved, &prop.location, &flags));
    EXPECT("1.8 aclrtMemRetainAllocationHandle needs no context", 0, aclrtMemRetainAllocationHandle(reserved,
                                                                                                    &retained));
    EXPECT("1.8 aclrtMemGetAllocationPropertiesFromHandle needs no context", 0,
           aclrtMemGetAllocationPropertiesFromHandle(handle, &prop));
    EXPECT("1.8 aclrtMemExportToShareableHandle needs no context", 0,
           aclrtMemExportToShareableHandle(handle, ACL_MEM_HANDLE_TYPE_NONE, 0, &shareable));
    EXPECT("1.8 aclrtMemSetPidToShareableHandle needs no context", 0, aclrtMemSetPidToShareableHandle(shareable, &pid,
                                                                                                      1));
    EXPECT("1.8 aclrtUnmapMem needs no context", 0, aclrtUnmapMem(reserved));
    EXPECT("1.8 aclrtFreePhysical of a retained handle needs no context", 0, aclrtFreePhysical(retained));
    EXPECT("1.8 aclrtFreePhysical needs no context", 0, aclrtFreePhysical(handle));
    EXPECT("1.8 aclrtReleaseMemAddress needs no context", 0, aclrtReleaseMemAddress(reserved));
    EXPECT("1.8 aclrtSynchronizeEvent needs no context", 0, aclrtSynchronizeEvent(kept.event));
    EXPECT("1.8 aclrtQueryEventStatus needs no context", 0, aclrtQueryEventStatus(kept.event, &recorded));
    EXPECT("1.8 aclrtDestroyEvent needs no context", 0, aclrtDestroyEvent(kept.event));
    EXPECT("1.8 aclrtFree needs no context", 0, aclrtFree(kept.device));
    EXPECT("1.8 aclrtFreeHost needs no context", 0, aclrtFreeHost(kept.host));
}

static void context_requirements(void) {
    const aclrtPhysicalMemProp prop = {.memAttr = ACL_HBM_MEM_HUGE, .location = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_DEVICE}};
    open_device();
    REQUIRE(aclrtCreateStream(&kept.stream));
    REQUIRE(aclrtCreateEvent(&kept.event));
    REQUIRE(aclrtMalloc(&kept.device, GRANULE, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtMallocHost(&kept.host, GRANULE));
    REQUIRE(aclrtMallocPhysical(&kept.physical, GRANULE, &prop, 0));
    on_new_thread(calls_that_need_a_context);
    on_new_thread(calls_that_need_none);
    close_device();
}

const struct group device_groups[] = {
    {"devices", devices},
    {"visible duplicates", visible_duplicates},
    {"visible disorder", visible_disorder},
    {"visible one", visible_one},
    {"device waits", device_waits},
    {"peers and pid", peers_and_pid},
    {"contexts", contexts},
    {"context requirements", context_requirements},
    {0},
};
