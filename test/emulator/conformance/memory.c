/* Section 1.6: ordinary memory, attributes of pointers, and memory information. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"

enum { FILL_BYTES = 4096 };

static void malloc_elsewhere(void) {
    void *pointer = NULL;
    EXPECT("1.6 aclrtMalloc without a context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtMalloc(&pointer, KIB,
                                                                                                    ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("1.6 aclrtMallocHost without a context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtMallocHost(&pointer,
                                                                                                            KIB));
}

static void *freed_elsewhere;

static void free_elsewhere(void) { EXPECT("1.6 aclrtFree on any thread → 0", 0, aclrtFree(freed_elsewhere)); }

static void device_memory(void) {
    void *pointer = NULL;
    void *reserved = NULL;
    size_t free = 0, total = 0;
    uint64_t local = 0;
    open_device();
    REQUIRE(aclrtGetMemInfo(ACL_HBM_MEM, &free, &total));
    EXPECT("1.6 aclrtMalloc without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtMalloc(NULL, KIB,
                                                                                                    ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("1.6 aclrtMalloc of nothing → invalid", ACL_ERROR_INVALID_PARAM, aclrtMalloc(&pointer, 0,
                                                                                        ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("1.6 aclrtMalloc of a size that overflows → invalid", ACL_ERROR_INVALID_PARAM, aclrtMalloc(&pointer,
                                                                                                      SIZE_MAX, ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("1.6 aclrtMalloc of more than there is → out of memory", ACL_ERROR_RT_MEMORY_ALLOCATION,
           aclrtMalloc(&pointer, total + GIB, ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("1.6 aclrtMallocAlign32 of more than there is → out of memory", ACL_ERROR_RT_MEMORY_ALLOCATION,
           aclrtMallocAlign32(&pointer, total + GIB, ACL_MEM_MALLOC_HUGE_FIRST));
    on_new_thread(malloc_elsewhere);
    for (int policy = ACL_MEM_MALLOC_HUGE_FIRST; policy <= ACL_MEM_MALLOC_NORMAL_ONLY; policy += 1) {
        char name[96];
        snprintf(name, sizeof(name), "1.6 aclrtMalloc with policy %d → 0", policy);
        EXPECT(name, 0, aclrtMalloc(&pointer, 3 * MIB + 1, (aclrtMemMallocPolicy)policy));
        snprintf(name, sizeof(name), "1.6 aclrtMalloc with policy %d is aligned to 64 bytes", policy);
        check_true(name, pointer != NULL && (uintptr_t)pointer % 64 == 0);
        snprintf(name, sizeof(name), "1.6 aclrtFree after policy %d → 0", policy);
        EXPECT(name, 0, aclrtFree(pointer));
    }
    EXPECT("1.6 aclrtMalloc with an unknown policy → 0", 0, aclrtMalloc(&pointer, KIB, (aclrtMemMallocPolicy)99));
    freed_elsewhere = pointer;
    on_new_thread(free_elsewhere);
    EXPECT("1.6 aclrtFree of what is freed → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtFree(pointer));
    EXPECT("1.6 aclrtFree(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtFree(NULL));
    EXPECT("1.6 aclrtFree of host memory → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtFree(&local));
    REQUIRE(aclrtReserveMemAddress(&reserved, GRANULE, 0, NULL, 0));
    EXPECT("1.6 aclrtFree of a reservation → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtFree(reserved));
    REQUIRE(aclrtReleaseMemAddress(reserved));
    EXPECT("1.6 aclrtMallocAlign32 of nothing → invalid", ACL_ERROR_INVALID_PARAM, aclrtMallocAlign32(&pointer, 0,
                                                                                                      ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("1.6 aclrtMallocAlign32 → 0", 0, aclrtMallocAlign32(&pointer, KIB, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtFree(pointer));
    EXPECT("1.6 aclrtMallocCached of nothing → invalid", ACL_ERROR_INVALID_PARAM, aclrtMallocCached(&pointer, 0,
                                                                                                    ACL_MEM_MALLOC_NORMAL_ONLY));
    EXPECT("1.6 aclrtMallocCached with huge pages first → 0", 0,
           aclrtMallocCached(&pointer, KIB, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtFree(pointer));
    EXPECT("1.6 aclrtMallocCached with huge pages only → 0", 0,
           aclrtMallocCached(&pointer, KIB, ACL_MEM_MALLOC_HUGE_ONLY));
    REQUIRE(aclrtFree(pointer));
    EXPECT("1.6 aclrtMallocCached with normal pages → 0", 0, aclrtMallocCached(&pointer, KIB,
                                                                               ACL_MEM_MALLOC_NORMAL_ONLY));
    EXPECT("1.6 aclrtFree after aclrtMallocCached → 0", 0, aclrtFree(pointer));
    close_device();
}

static void before_any_device(void) {
    const aclrtPhysicalMemProp prop = {.memAttr = ACL_HBM_MEM_HUGE, .location = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_DEVICE}};
    aclrtDrvMemHandle handle = NULL;
    void *pointer = NULL;
    REQUIRE(aclInit(NULL));
    EXPECT("1.6 aclrtFree before any device is open → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtFree((void *)WINDOW_START));
    EXPECT("4.2 aclrtReserveMemAddress before any device is open → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtReserveMemAddress(&pointer, GRANULE, 0, NULL, 0));
    EXPECT("1.7 aclrtReleaseMemAddress before any device is open → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtReleaseMemAddress((void *)WINDOW_START));
    EXPECT("1.7 aclrtUnmapMem before any device is open → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtUnmapMem((void *)WINDOW_START));
    EXPECT("1.7 aclrtMallocPhysical before any device is open → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtMallocPhysical(&handle, GRANULE, &prop, 0));
}

static void host_memory(void) {
    void *pointer = NULL, *device = NULL;
    open_device();
    REQUIRE(aclrtMalloc(&device, GRANULE, ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("1.6 aclrtMallocHost without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtMallocHost(NULL, KIB));
    EXPECT("1.6 aclrtMallocHost of nothing → invalid", ACL_ERROR_INVALID_PARAM, aclrtMallocHost(&pointer, 0));
    EXPECT("1.6 aclrtMallocHost of more than there is → out of memory", ACL_ERROR_RT_MEMORY_ALLOCATION,
           aclrtMallocHost(&pointer, (size_t)1 << 55));
    EXPECT("1.6 aclrtMallocHost → 0", 0, aclrtMallocHost(&pointer, MIB));
    memset(pointer, 1, MIB);
    EXPECT("1.6 aclrtFreeHost(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtFreeHost(NULL));
    EXPECT("1.6 aclrtFreeHost of device memory → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtFreeHost(device));
    EXPECT("1.6 aclrtFreeHost → 0", 0, aclrtFreeHost(pointer));
    close_device();
}

static void *registered;

static void register_elsewhere(void) {
    void *device = NULL;
    EXPECT("1.6 aclrtHostRegister without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtHostRegister(registered, 64 * KIB, ACL_HOST_REGISTER_MAPPED, &device));
}

static long location_type(const void *pointer) {
    aclrtPtrAttributes attributes = {.location = {.id = 0, .type = (aclrtMemLocationType)-1}};
    aclError code = aclrtPointerGetAttributes(pointer, &attributes);
    return code == ACL_SUCCESS ? (long)attributes.location.type : (long)code;
}

static void registration(void) {
    void *device = NULL;
    registered = aligned_alloc(64 * KIB, 64 * KIB);
    open_device();
    EXPECT("1.6 aclrtHostRegister(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtHostRegister(NULL, KIB,
                                                                                               ACL_HOST_REGISTER_MAPPED, &device));
    EXPECT("1.6 aclrtHostRegister of nothing → invalid", ACL_ERROR_INVALID_PARAM, aclrtHostRegister(registered, 0,
                                                                                                    ACL_HOST_REGISTER_MAPPED, &device));
    EXPECT("1.6 aclrtHostRegister without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtHostRegister(registered, 64 * KIB, ACL_HOST_REGISTER_MAPPED, NULL));
    EXPECT("1.6 aclrtHostRegister with another type → unsupported", ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
           aclrtHostRegister(registered, 64 * KIB, (aclrtHostRegisterType)1, &device));
    on_new_thread(register_elsewhere);
    EXPECT("1.6 aclrtHostUnregister(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtHostUnregister(NULL));
    EXPECT("1.6 aclrtHostUnregister of what is not registered → not registered", ACL_ERROR_HOST_MEMORY_NOT_REGISTERED,
           aclrtHostUnregister(registered));
    EXPECT("1.6 plain host memory is unregistered", ACL_MEM_LOCATION_TYPE_UNREGISTERED, location_type(registered));
    EXPECT("1.6 aclrtHostRegister → 0", 0, aclrtHostRegister(registered, 64 * KIB, ACL_HOST_REGISTER_MAPPED, &device));
    EXPECT("1.6 registered host memory is the host's", ACL_MEM_LOCATION_TYPE_HOST, location_type(registered));
    EXPECT("1.6 aclrtHostRegister again → already registered", ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
           aclrtHostRegister(registered, 64 * KIB, ACL_HOST_REGISTER_MAPPED, &device));
    EXPECT("1.6 aclrtHostUnregister → 0", 0, aclrtHostUnregister(registered));
    EXPECT("1.6 aclrtHostUnregister again → not registered", ACL_ERROR_HOST_MEMORY_NOT_REGISTERED,
           aclrtHostUnregister(registered));
    EXPECT("1.6 aclrtHostRegisterV2(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtHostRegisterV2(NULL, KIB,
                                                                                                   ACL_HOST_REG_PINNED));
    EXPECT("1.6 aclrtHostRegisterV2 of nothing → invalid", ACL_ERROR_INVALID_PARAM, aclrtHostRegisterV2(registered, 0,
                                                                                                        ACL_HOST_REG_PINNED));
    EXPECT("1.6 aclrtHostRegisterV2 without flags → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtHostRegisterV2(registered, 64 * KIB, 0));
    EXPECT("1.6 aclrtHostRegisterV2 with an unknown flag → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtHostRegisterV2(registered, 64 * KIB, 1));
    EXPECT("1.6 aclrtHostRegisterV2 pinned → 0", 0, aclrtHostRegisterV2(registered, 64 * KIB, ACL_HOST_REG_PINNED));
    EXPECT("1.6 aclrtHostRegisterV2 again → already registered", ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
           aclrtHostRegisterV2(registered, 64 * KIB, ACL_HOST_REG_MAPPED));
    EXPECT("1.6 aclrtHostUnregister of pinned memory → 0", 0, aclrtHostUnregister(registered));
    EXPECT("1.6 then it is unregistered", ACL_MEM_LOCATION_TYPE_UNREGISTERED, location_type(registered));
    free(registered);
    close_device();
}

static void filling(void) {
    uint8_t onHost[FILL_BYTES];
    aclrtStream stream = NULL;
    void *device = NULL;
    open_device();
    REQUIRE(aclrtCreateStream(&stream));
    REQUIRE(aclrtMalloc(&device, FILL_BYTES, ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("1.6 aclrtMemset of nothing comes before any check → 0", 0, aclrtMemset(NULL, 0, 0, 0));
    EXPECT("1.6 aclrtMemset(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemset(NULL, 1, 0, 1));
    EXPECT("1.6 aclrtMemset of more than the maximum → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemset(device, 16, 0,
                                                                                                         17));
    EXPECT("1.6 aclrtMemset → 0", 0, aclrtMemset(device, FILL_BYTES, 0x1A5, FILL_BYTES));
    REQUIRE(aclrtMemcpy(onHost, sizeof(onHost), device, FILL_BYTES, ACL_MEMCPY_DEVICE_TO_HOST));
    check_true("1.6 aclrtMemset writes the low byte", all_bytes(onHost, sizeof(onHost), 0xA5));
    EXPECT("1.6 aclrtMemset of plain host memory → 0", 0, aclrtMemset(onHost, sizeof(onHost), 0, sizeof(onHost)));
    check_true("1.6 aclrtMemset writes plain host memory", all_bytes(onHost, sizeof(onHost), 0));
    EXPECT("1.6 aclrtMemsetAsync(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemsetAsync(NULL, 1, 0, 1, stream));
    EXPECT("1.6 aclrtMemsetAsync of more than the maximum → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtMemsetAsync(device, 16, 0, 17, stream));
    EXPECT("1.6 aclrtMemsetAsync → 0", 0, aclrtMemsetAsync(device, FILL_BYTES, 0x5A, FILL_BYTES, stream));
    REQUIRE(aclrtSynchronizeStream(stream));
    REQUIRE(aclrtMemcpy(onHost, sizeof(onHost), device, FILL_BYTES, ACL_MEMCPY_DEVICE_TO_HOST));
    check_true("1.6 aclrtMemsetAsync writes", all_bytes(onHost, sizeof(onHost), 0x5A));
    close_device();
}

static void memory_info_elsewhere(void) {
    size_t free = 0, total = 0;
    EXPECT("1.6 aclrtGetMemInfo without a context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtGetMemInfo(ACL_HBM_MEM,
                                                                                                            &free, &total));
}

static void memory_info(void) {
    size_t free = 0, total = 0, hugeFree = 0, hugeTotal = 0, normalFree = 0, normalTotal = 0, after = 0;
    void *pointer = NULL;
    open_device();
    EXPECT("1.6 aclrtGetMemInfo without free → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetMemInfo(ACL_HBM_MEM, NULL,
                                                                                                  &total));
    EXPECT("1.6 aclrtGetMemInfo without total → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetMemInfo(ACL_HBM_MEM, &free,
                                                                                                   NULL));
    EXPECT("1.6 aclrtGetMemInfo(18) → memory type", ACL_ERROR_RT_INVALID_MEMORY_TYPE, aclrtGetMemInfo((aclrtMemAttr)18,
                                                                                                      &free, &total));
    EXPECT("1.6 aclrtGetMemInfo(-1) → memory type", ACL_ERROR_RT_INVALID_MEMORY_TYPE, aclrtGetMemInfo((aclrtMemAttr)-1,
                                                                                                      &free, &total));
    on_new_thread(memory_info_elsewhere);
    EXPECT("1.6 aclrtGetMemInfo → 0", 0, aclrtGetMemInfo(ACL_HBM_MEM, &free, &total));
    check_true("1.6 there is memory, and no more free than in all", total > 0 && free <= total);
    REQUIRE(aclrtGetMemInfo(ACL_HBM_MEM_HUGE, &hugeFree, &hugeTotal));
    REQUIRE(aclrtGetMemInfo(ACL_HBM_MEM_NORMAL, &normalFree, &normalTotal));
    EXPECT("1.6 in all = huge pages + normal pages", total, hugeTotal + normalTotal);
    EXPECT("1.6 free = huge pages + normal pages", free, hugeFree + normalFree);
    REQUIRE(aclrtMalloc(&pointer, 16 * MIB, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtGetMemInfo(ACL_HBM_MEM, &after, &total));
    check_true("1.6 an allocation is no longer free", free - after >= 16 * MIB);
    REQUIRE(aclrtFree(pointer));
    REQUIRE(aclrtGetMemInfo(ACL_HBM_MEM, &after, &total));
    EXPECT("1.6 a freed allocation is free again", free, after);
    close_device();
}

static void *looked_at;

static void attributes_elsewhere(void) {
    EXPECT("1.6 aclrtPointerGetAttributes needs no context", ACL_MEM_LOCATION_TYPE_DEVICE, location_type(looked_at));
}

static void pointer_attributes(void) {
    aclrtPtrAttributes attributes = {0};
    void *host = NULL, *reserved = NULL;
    void *plain = malloc(KIB);
    open_device();
    REQUIRE(aclrtMalloc(&looked_at, GRANULE, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtMallocHost(&host, KIB));
    REQUIRE(aclrtReserveMemAddress(&reserved, GRANULE, 0, NULL, 0));
    EXPECT("1.6 aclrtPointerGetAttributes(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtPointerGetAttributes(NULL,
                                                                                                               &attributes));
    EXPECT("1.6 aclrtPointerGetAttributes without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtPointerGetAttributes(host, NULL));
    EXPECT("1.6 aclrtPointerGetAttributes → 0", 0, aclrtPointerGetAttributes(looked_at, &attributes));
    EXPECT("1.6 device memory is the device's", ACL_MEM_LOCATION_TYPE_DEVICE, attributes.location.type);
    EXPECT("1.6 device memory is of the device that it was taken on", 0, attributes.location.id);
    EXPECT("1.6 page-locked host memory is the host's", ACL_MEM_LOCATION_TYPE_HOST, location_type(host));
    EXPECT("1.6 memory of malloc is unregistered", ACL_MEM_LOCATION_TYPE_UNREGISTERED, location_type(plain));
    EXPECT("1.6 a reserved address that is not mapped → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           location_type(reserved));
    EXPECT("1.6 an address in the window that nobody took → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
           location_type((void *)(WINDOW_END - GRANULE)));
    on_new_thread(attributes_elsewhere);
    free(plain);
    close_device();
}

const struct group memory_groups[] = {
    {"device memory", device_memory},
    {"before any device", before_any_device},
    {"host memory", host_memory},
    {"registration", registration},
    {"filling", filling},
    {"memory info", memory_info},
    {"pointer attributes", pointer_attributes},
    {0},
};
