/* Section 1.7: mapping, access, and address ranges. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm.h"

enum { FAR_TOO_HIGH_ID = 1 << 20 };

static void mapping_arguments(aclError (*map)(void *, size_t, size_t, aclrtDrvMemHandle, uint64_t), const char *call) {
    void *address = reserve(4 * GRANULE);
    aclrtDrvMemHandle handle = back(GRANULE);
    const struct {
        const char *what;
        aclError expected;
        aclError got;
    } cases[] = {
        {"at NULL → invalid", ACL_ERROR_INVALID_PARAM, map(NULL, GRANULE, 0, handle, 0)},
        {"of no handle → invalid", ACL_ERROR_INVALID_PARAM, map(address, GRANULE, 0, NULL, 0)},
        {"of no size → invalid", ACL_ERROR_INVALID_PARAM, map(address, 0, 0, handle, 0)},
        {"with flags → invalid", ACL_ERROR_INVALID_PARAM, map(address, GRANULE, 0, handle, 1)},
        {"with an offset → invalid", ACL_ERROR_RT_PARAM_INVALID, map(address, GRANULE, GRANULE, handle, 0)},
    };
    char name[128];
    for (size_t index = 0; index < sizeof(cases) / sizeof(*cases); index += 1) {
        snprintf(name, sizeof(name), "1.7 %s %s", call, cases[index].what);
        EXPECT(name, cases[index].expected, cases[index].got);
    }
    REQUIRE(aclrtFreePhysical(handle));
    snprintf(name, sizeof(name), "4.3 %s: refused calls have mapped nothing", call);
    EXPECT(name, 0, aclrtReleaseMemAddress(address));
}

static void mapping(void) {
    open_device();
    mapping_arguments(aclrtMapMem, "map");
    void *address = reserve(4 * GRANULE);
    aclrtDrvMemHandle handle = back(GRANULE);
    aclrtDrvMemHandle larger = back(4 * GRANULE);
    aclrtDrvMemHandle onHost = NULL;
    aclrtPhysicalMemProp hostProp = prop_of(ACL_MEM_HUGE, on_host);
    EXPECT("4.3 map at a misaligned address → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR, aclrtMapMem(at(address,
                                                                                                             4 * KIB), GRANULE, 0, handle, 0));
    EXPECT("4.3 map of a misaligned size → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR, aclrtMapMem(address, 4 * KIB,
                                                                                                       0, handle, 0));
    EXPECT("4.3 map beyond a reservation's end → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
           aclrtMapMem(at(address, 3 * GRANULE), 2 * GRANULE, 0, larger, 0));
    EXPECT("4.3 map at an address never reserved → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
           aclrtMapMem((void *)(WINDOW_END - GRANULE), GRANULE, 0, handle, 0));
    EXPECT("4.3 map inside a reservation → 0", 0, aclrtMapMem(at(address, GRANULE), GRANULE, 0, handle, 0));
    set_first_word(at(address, GRANULE), 0xBEEF);
    EXPECT("4.3 map over a mapping → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR, aclrtMapMem(at(address, GRANULE),
                                                                                                 GRANULE, 0, larger, 0));
    EXPECT("4.3 map partly over a mapping → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR, aclrtMapMem(address,
                                                                                                        2 * GRANULE, 0, larger, 0));
    EXPECT("4.3 the mapping keeps its bytes", 0xBEEF, first_word(at(address, GRANULE)));
    EXPECT("4.3 map the same memory at a second address → 0", 0, aclrtMapMem(at(address, 2 * GRANULE), GRANULE, 0,
                                                                             handle, 0));
    EXPECT("4.3 both addresses show the same bytes", 0xBEEF, first_word(at(address, 2 * GRANULE)));
    EXPECT("4.3 map a part of the physical memory → 0", 0, aclrtMapMem(at(address, 3 * GRANULE), GRANULE, 0, larger,
                                                                       0));
    REQUIRE(aclrtMallocPhysical(&onHost, GRANULE, &hostProp, 0));
    EXPECT("4.3 map more than the host's physical memory → out of memory", ACL_ERROR_RT_MEMORY_ALLOCATION,
           aclrtMapMem(reserve(2 * GRANULE), 2 * GRANULE, 0, onHost, 0));
    close_device();
}

static void unmapping(void) {
    open_device();
    void *address = reserve(4 * GRANULE);
    aclrtDrvMemHandle handle = back(2 * GRANULE);
    EXPECT("1.7 unmap(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtUnmapMem(NULL));
    EXPECT("4.3 unmap of unmapped → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR, aclrtUnmapMem(address));
    EXPECT("4.3 unmap of a misaligned unmapped address → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
           aclrtUnmapMem(at(address, 4 * KIB)));
    REQUIRE(aclrtMapMem(address, 2 * GRANULE, 0, handle, 0));
    EXPECT("4.3 unmap of a mapping's middle → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR, aclrtUnmapMem(at(address,
                                                                                                               GRANULE)));
    EXPECT("4.2 release while mapped → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR, aclrtReleaseMemAddress(address));
    EXPECT("4.3 unmap → 0", 0, aclrtUnmapMem(address));
    EXPECT("4.3 unmap again → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR, aclrtUnmapMem(address));
    EXPECT("4.2 the reservation survived: map again → 0", 0, aclrtMapMem(address, 2 * GRANULE, 0, handle, 0));
    REQUIRE(aclrtUnmapMem(address));
    EXPECT("4.3 free after unmap → 0", 0, aclrtFreePhysical(handle));
    EXPECT("4.3 release after unmap → 0", 0, aclrtReleaseMemAddress(address));
    close_device();
}

static void freeing_while_mapped(void) {
    open_device();
    size_t free = free_bytes();
    void *address = reserve(GRANULE);
    aclrtDrvMemHandle handle = back(GRANULE);
    REQUIRE(aclrtMapMem(address, GRANULE, 0, handle, 0));
    EXPECT("4.3 free while mapped → 0", 0, aclrtFreePhysical(handle));
    EXPECT("4.3 the memory lives on", free - GRANULE, free_bytes());
    set_first_word(address, 0xCAFE);
    EXPECT("4.3 and is usable", 0xCAFE, first_word(address));
    EXPECT("4.3 free a second time while mapped → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtFreePhysical(handle));
    EXPECT("4.3 unmap → 0, after free", 0, aclrtUnmapMem(address));
    EXPECT("4.3 the last unmap gives the memory back", free, free_bytes());
    EXPECT("4.3 release after all → 0", 0, aclrtReleaseMemAddress(address));
    close_device();
}

static void unmap_then_release_then_free(void) {
    open_device();
    size_t free = free_bytes();
    void *address = reserve(GRANULE);
    aclrtDrvMemHandle handle = back(GRANULE);
    REQUIRE(aclrtMapMem(address, GRANULE, 0, handle, 0));
    EXPECT("4.3 the samples' teardown: unmap → 0", 0, aclrtUnmapMem(address));
    EXPECT("4.3 the samples' teardown: release → 0", 0, aclrtReleaseMemAddress(address));
    EXPECT("4.3 the samples' teardown: free → 0", 0, aclrtFreePhysical(handle));
    EXPECT("4.3 the samples' teardown gives the memory back", free, free_bytes());
    close_device();
}

static void bytes_survive_remapping(void) {
    open_device();
    void *address = reserve(GRANULE);
    aclrtDrvMemHandle handle = back(GRANULE);
    REQUIRE(aclrtMapMem(address, GRANULE, 0, handle, 0));
    set_first_word(address, 0xABCD);
    REQUIRE(aclrtUnmapMem(address));
    REQUIRE(aclrtMapMem(address, GRANULE, 0, handle, 0));
    EXPECT("4.3 physical memory keeps its bytes while it is unmapped", 0xABCD, first_word(address));
    close_device();
}

static void access_arguments(void *address) {
    static const aclrtMemLocation nodes = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_HOST_NUMA};
    static const aclrtMemLocation unregistered = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_UNREGISTERED};
    static const aclrtMemLocation hostOne = {.id = 1, .type = ACL_MEM_LOCATION_TYPE_HOST};
    static const aclrtMemLocation far = {.id = FAR_TOO_HIGH_ID, .type = ACL_MEM_LOCATION_TYPE_DEVICE};
    const struct {
        const char *name;
        int flags;
        aclrtMemLocation location;
        aclError expected;
    } cases[] = {
        {"4.4 set access, no access → unsupported", ACL_RT_MEM_ACCESS_FLAGS_NONE, on_device, ACL_ERROR_RT_FEATURE_NOT_SUPPORT},
        {"4.4 set access, read only → unsupported", ACL_RT_MEM_ACCESS_FLAGS_READ, on_device, ACL_ERROR_RT_FEATURE_NOT_SUPPORT},
        {"1.7 set access with flags 4 → invalid", 4, on_device, ACL_ERROR_RT_PARAM_INVALID},
        {"4.4 set access of the host with an id → invalid", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, hostOne, ACL_ERROR_RT_PARAM_INVALID},
        {"4.4 set access of a device out of range → invalid", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, far, ACL_ERROR_RT_PARAM_INVALID},
        {"4.4 set access of a NUMA node → invalid", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, nodes, ACL_ERROR_RT_PARAM_INVALID},
        {"4.4 set access of another location type → invalid", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, unregistered, ACL_ERROR_RT_PARAM_INVALID},
        {"4.4 set access of the owner → 0", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, on_device, 0},
        {"4.4 set access of the owner again → 0", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, on_device, 0},
    };
    for (size_t index = 0; index < sizeof(cases) / sizeof(*cases); index += 1) {
        aclrtMemAccessDesc access = {.flags = (aclrtMemAccessFlags)cases[index].flags,
                                     .location = cases[index].location};
        EXPECT(cases[index].name, cases[index].expected, aclrtMemSetAccess(address, 2 * GRANULE, &access, 1));
    }
}

static void granting(void) {
    open_device();
    aclrtMemAccessDesc access = {.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE, .location = on_device};
    aclrtMemLocation location = on_device;
    uint64_t flag = 99;
    void *address = reserve(4 * GRANULE);
    REQUIRE(aclrtMapMem(address, 2 * GRANULE, 0, back(2 * GRANULE), 0));
    EXPECT("1.7 set access at NULL → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemSetAccess(NULL, 2 * GRANULE, &access,
                                                                                             1));
    EXPECT("1.7 set access without a description → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemSetAccess(address,
                                                                                                           2 * GRANULE, NULL, 1));
    EXPECT("1.7 set access of no description → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemSetAccess(address,
                                                                                                       2 * GRANULE, &access, 0));
    EXPECT("4.4 set access of a part → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR, aclrtMemSetAccess(address,
                                                                                                         GRANULE, &access, 1));
    EXPECT("4.4 set access from the middle → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
           aclrtMemSetAccess(at(address, GRANULE), GRANULE, &access, 1));
    EXPECT("4.4 set access of unmapped memory → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
           aclrtMemSetAccess(at(address, 2 * GRANULE), 2 * GRANULE, &access, 1));
    EXPECT("1.7 get access at NULL → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemGetAccess(NULL, &location, &flag));
    EXPECT("1.7 get access without a location → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemGetAccess(address, NULL,
                                                                                                     &flag));
    EXPECT("1.7 get access without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemGetAccess(address,
                                                                                                         &location, NULL));
    EXPECT("4.4 get access of the owner, never set → 0", 0, aclrtMemGetAccess(address, &location, &flag));
    EXPECT("4.4 a map gives its owner read and write", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, flag);
    EXPECT("1.7 get access inside a mapping → 0", 0, aclrtMemGetAccess(at(address, GRANULE), &location, &flag));
    EXPECT("1.7 it is the mapping's", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, flag);
    EXPECT("1.7 get access of unmapped memory → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
           aclrtMemGetAccess(at(address, 2 * GRANULE), &location, &flag));
    location.id = FAR_TOO_HIGH_ID;
    EXPECT("1.7 get access of a bad location → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemGetAccess(address,
                                                                                                       &location, &flag));
    access_arguments(address);
    location = on_host;
    EXPECT("4.4 get access of the host, never granted → 0", 0, aclrtMemGetAccess(address, &location, &flag));
    EXPECT("4.4 it has none", ACL_RT_MEM_ACCESS_FLAGS_NONE, flag);
    access.location = on_host;
    EXPECT("4.4 set access of the host to device memory → 0", 0, aclrtMemSetAccess(address, 2 * GRANULE, &access, 1));
    EXPECT("4.4 get access of the host → 0", 0, aclrtMemGetAccess(address, &location, &flag));
    EXPECT("4.4 it was granted", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, flag);
    REQUIRE(aclrtUnmapMem(address));
    REQUIRE(aclrtMapMem(address, 2 * GRANULE, 0, back(2 * GRANULE), 0));
    REQUIRE(aclrtMemGetAccess(address, &location, &flag));
    EXPECT("4.4 access ends at unmap", ACL_RT_MEM_ACCESS_FLAGS_NONE, flag);
    close_device();
}

static void mapping_without_access(void) {
    if (aclrtMemMapNoAccess == NULL) return;
    open_device();
    mapping_arguments(aclrtMemMapNoAccess, "map without access");
    aclrtMemAccessDesc access = {.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE, .location = on_device};
    aclrtMemLocation location = on_device;
    uint64_t flag = 99;
    void *address = reserve(GRANULE);
    EXPECT("1.7 map without access → 0", 0, aclrtMemMapNoAccess(address, GRANULE, 0, back(GRANULE), 0));
    EXPECT("4.4 set access after it → 0", 0, aclrtMemSetAccess(address, GRANULE, &access, 1));
    REQUIRE(aclrtMemGetAccess(address, &location, &flag));
    EXPECT("4.4 then the owner has read and write", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, flag);
    set_first_word(address, 0xD00D);
    EXPECT("4.4 and the memory is usable", 0xD00D, first_word(address));
    EXPECT("1.7 unmap after it → 0", 0, aclrtUnmapMem(address));
    close_device();
}

static void retaining(void) {
    open_device();
    size_t free = free_bytes();
    void *address = reserve(2 * GRANULE);
    aclrtDrvMemHandle handle = back(GRANULE);
    aclrtDrvMemHandle retained = NULL;
    REQUIRE(aclrtMapMem(address, GRANULE, 0, handle, 0));
    EXPECT("1.7 retain at NULL → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemRetainAllocationHandle(NULL, &retained));
    EXPECT("1.7 retain without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemRetainAllocationHandle(address, NULL));
    check_error("1.7 retain of unmapped memory → error", aclrtMemRetainAllocationHandle(at(address, GRANULE),
                                                                                        &retained));
    EXPECT("1.7 retain → 0", 0, aclrtMemRetainAllocationHandle(address, &retained));
    check_true("1.7 retain gives the mapped handle", retained == handle);
    EXPECT("1.7 free the handle, retained and mapped → 0", 0, aclrtFreePhysical(handle));
    REQUIRE(aclrtUnmapMem(address));
    EXPECT("1.7 a retained handle keeps the memory", free - GRANULE, free_bytes());
    EXPECT("1.7 a retained handle maps again → 0", 0, aclrtMapMem(at(address, GRANULE), GRANULE, 0, retained, 0));
    REQUIRE(aclrtUnmapMem(at(address, GRANULE)));
    EXPECT("1.7 each retain needs one free → 0", 0, aclrtFreePhysical(retained));
    EXPECT("1.7 then the memory is given back", free, free_bytes());
    close_device();
}

static void address_ranges(void) {
    open_device();
    void *address = reserve(4 * GRANULE);
    void *base = NULL, *pointer = NULL;
    size_t size = 0;
    REQUIRE(aclrtMapMem(at(address, GRANULE), 2 * GRANULE, 0, back(2 * GRANULE), 0));
    EXPECT("1.7 range of NULL → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemGetAddressRange(NULL, &base, &size));
    EXPECT("1.7 range without out-pointers → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemGetAddressRange(at(address,
                                                                                                              GRANULE), NULL, NULL));
    EXPECT("1.7 range inside a mapping → 0", 0, aclrtMemGetAddressRange(at(address, 2 * GRANULE + 64), &base, &size));
    check_true("1.7 it starts where the mapping does", base == at(address, GRANULE));
    EXPECT("1.7 it has the mapping's size, not the reservation's", 2 * GRANULE, size);
    EXPECT("1.7 range without a size → 0", 0, aclrtMemGetAddressRange(at(address, GRANULE), &base, NULL));
    EXPECT("1.7 range without a base → 0", 0, aclrtMemGetAddressRange(at(address, GRANULE), NULL, &size));
    REQUIRE(aclrtMalloc(&pointer, 4 * MIB, ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("1.7 range of an aclrtMalloc → 0", 0, aclrtMemGetAddressRange(at(pointer, MIB), &base, &size));
    check_true("1.7 it is the allocation's block", base == pointer && size >= 4 * MIB);
    close_device();
}

static void copies_on_mappings(void) {
    open_device();
    aclrtPtrAttributes attributes = {0};
    void *address = reserve(4 * GRANULE);
    uint32_t *onHost = malloc(2 * GRANULE);
    REQUIRE(aclrtMapMem(address, GRANULE, 0, back(GRANULE), 0));
    REQUIRE(aclrtMapMem(at(address, GRANULE), GRANULE, 0, back(GRANULE), 0));
    for (size_t index = 0; index < 2 * GRANULE / sizeof(*onHost); index += 1) onHost[index] = (uint32_t)(index * 2654435761u);
    EXPECT("4.5 a copy to two adjacent mappings → 0", 0, aclrtMemcpy(address, 2 * GRANULE, onHost, 2 * GRANULE,
                                                                     ACL_MEMCPY_HOST_TO_DEVICE));
    EXPECT("4.5 their last word arrived", (uint32_t)((2 * GRANULE / sizeof(*onHost) - 1) * 2654435761u),
           first_word(at(address, 2 * GRANULE - sizeof(*onHost))));
    memset(onHost, 0, 2 * GRANULE);
    EXPECT("4.5 a copy from two adjacent mappings → 0", 0, aclrtMemcpy(onHost, 2 * GRANULE, address, 2 * GRANULE,
                                                                       ACL_MEMCPY_DEVICE_TO_HOST));
    EXPECT("4.5 the word past the border came back", (uint32_t)(GRANULE / sizeof(*onHost) * 2654435761u),
           onHost[GRANULE / sizeof(*onHost)]);
    EXPECT("4.5 a copy on the device → 0", 0, aclrtMemcpy(at(address, GRANULE), GRANULE, address, GRANULE,
                                                          ACL_MEMCPY_DEVICE_TO_DEVICE));
    EXPECT("4.5 aclrtMemset of a mapping → 0", 0, aclrtMemset(address, GRANULE, 0x5C, GRANULE));
    EXPECT("4.5 aclrtMemset wrote it", 0x5C5C5C5C, first_word(address));
    check_either("4.5 a copy to reserved memory that is not mapped → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
                 ACL_ERROR_RT_INVALID_HANDLE,
                 aclrtMemcpy(at(address, 2 * GRANULE), GRANULE, onHost, GRANULE, ACL_MEMCPY_HOST_TO_DEVICE));
    check_error("4.5 a copy that ends in memory that is not mapped → error",
                aclrtMemcpy(at(address, GRANULE), 2 * GRANULE, onHost, 2 * GRANULE, ACL_MEMCPY_HOST_TO_DEVICE));
    EXPECT("4.5 attributes of a mapping → 0", 0, aclrtPointerGetAttributes(address, &attributes));
    EXPECT("4.5 a mapping of device memory is the device's", ACL_MEM_LOCATION_TYPE_DEVICE, attributes.location.type);
    EXPECT("4.5 it is of that device", 0, attributes.location.id);
    free(onHost);
    close_device();
}

static void host_physical(void) {
    open_device();
    aclrtPtrAttributes attributes = {0};
    aclrtPhysicalMemProp prop = prop_of(ACL_MEM_HUGE, on_host);
    aclrtMemLocation location = on_host;
    aclrtDrvMemHandle handle = NULL;
    uint64_t flag = 0;
    void *address = reserve(GRANULE);
    size_t free = free_bytes();
    REQUIRE(aclrtMallocPhysical(&handle, GRANULE, &prop, 0));
    EXPECT("4.6 the host's physical memory is not the device's", free, free_bytes());
    EXPECT("4.6 map of the host's physical memory → 0", 0, aclrtMapMem(address, GRANULE, 0, handle, 0));
    REQUIRE(aclrtMemGetAccess(address, &location, &flag));
    EXPECT("4.4 a map gives the host read and write on its own memory", ACL_RT_MEM_ACCESS_FLAGS_READWRITE, flag);
    EXPECT("4.5 attributes of a mapping of the host's memory → 0", 0, aclrtPointerGetAttributes(address, &attributes));
    EXPECT("4.5 a mapping of the host's memory is the host's", ACL_MEM_LOCATION_TYPE_HOST, attributes.location.type);
    close_device();
}

static void two_devices(void) {
    open_device();
    if (device_count() >= 2) {
        aclrtDrvMemHandle other = NULL;
        aclrtPhysicalMemProp prop = prop_of(ACL_HBM_MEM_HUGE, (aclrtMemLocation){.id = 1,
                                                                                 .type = ACL_MEM_LOCATION_TYPE_DEVICE});
        void *address = reserve(2 * GRANULE);
        size_t free = free_bytes();
        REQUIRE(aclrtSetDevice(1));
        REQUIRE(aclrtSetDevice(0));
        EXPECT("4.7 physical memory of another device than the current one → 0", 0, aclrtMallocPhysical(&other, GRANULE,
                                                                                                        &prop, 0));
        EXPECT("4.7 the current device gave nothing", free, free_bytes());
        REQUIRE(aclrtMapMem(address, GRANULE, 0, back(GRANULE), 0));
        EXPECT("4.3 map of a second device in one reservation → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
               aclrtMapMem(at(address, GRANULE), GRANULE, 0, other, 0));
        REQUIRE(aclrtUnmapMem(address));
        EXPECT("4.3 the first map fixes the device, even after unmap → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
               aclrtMapMem(address, GRANULE, 0, other, 0));
        EXPECT("4.3 in its own reservation → 0", 0, aclrtMapMem(reserve(GRANULE), GRANULE, 0, other, 0));
        REQUIRE(aclrtResetDeviceForce(1));
    }
    close_device();
}

static void renumbered(void) {
    setenv("ASCEND_RT_VISIBLE_DEVICES", "1", 1);
    uint32_t count = 0;
    REQUIRE(aclInit(NULL));
    if (aclrtGetDeviceCount(&count) != ACL_SUCCESS || count != 1) return;
    REQUIRE(aclrtSetDevice(0));
    aclrtPhysicalMemProp told;
    aclrtPtrAttributes attributes = {0};
    aclrtMemAccessDesc access = {.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE, .location = {.id = 1, .type = ACL_MEM_LOCATION_TYPE_DEVICE}};
    void *address = reserve(GRANULE);
    aclrtDrvMemHandle handle = back(GRANULE);
    REQUIRE(aclrtMapMem(address, GRANULE, 0, handle, 0));
    EXPECT("8 set access takes the driver's device id → 0", 0, aclrtMemSetAccess(address, GRANULE, &access, 1));
    REQUIRE(aclrtMemGetAllocationPropertiesFromHandle(handle, &told));
    EXPECT("8 properties tell the driver's device id", 1, told.location.id);
    REQUIRE(aclrtPointerGetAttributes(address, &attributes));
    EXPECT("1.6 pointer attributes tell the user's device id", 0, attributes.location.id);
    close_device();
}

static void reset_destroys_mappings(void) {
    open_device();
    void *address = reserve(GRANULE);
    REQUIRE(aclrtMapMem(address, GRANULE, 0, back(GRANULE), 0));
    REQUIRE(aclrtResetDevice(0));
    REQUIRE(aclrtSetDevice(0));
    check_error("8 the last reset destroys a device's mappings: unmap → error", aclrtUnmapMem(address));
    close_device();
}

const struct group mapping_groups[] = {
    {"mapping", mapping},
    {"mapping without access", mapping_without_access},
    {"unmapping", unmapping},
    {"freeing while mapped", freeing_while_mapped},
    {"unmap, release, free", unmap_then_release_then_free},
    {"bytes survive remapping", bytes_survive_remapping},
    {"granting", granting},
    {"retaining", retaining},
    {"address ranges", address_ranges},
    {"copies on mappings", copies_on_mappings},
    {"host physical", host_physical},
    {"two devices", two_devices},
    {"renumbered", renumbered},
    {"reset destroys mappings", reset_destroys_mappings},
    {0},
};
