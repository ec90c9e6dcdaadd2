/* Section 1.7: granularity, reserved addresses, and physical memory. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "vmm.h"

static void granularity(void) {
    size_t bytes = 0;
    static const struct {
        aclrtMemAttr attr;
        bool host;
        size_t expected;
    } cases[] = {
        {ACL_HBM_MEM_HUGE, false, GRANULE}, {ACL_HBM_MEM_NORMAL, false, GRANULE}, {ACL_MEM_NORMAL, false, GRANULE},
        {ACL_MEM_HUGE, false, GRANULE},     {ACL_HBM_MEM_HUGE1G, false, GIB},     {ACL_MEM_HUGE1G, false, GIB},
        {ACL_MEM_NORMAL, true, GRANULE},    {ACL_MEM_HUGE, true, GRANULE},        {ACL_DDR_MEM_HUGE, true, GRANULE},
    };
    char name[128];
    aclrtPhysicalMemProp early = prop_of(ACL_HBM_MEM_HUGE, on_device);
    EXPECT("1.7 granularity before any device is set → 0", 0, aclrtMemGetAllocationGranularity(&early, 0, &bytes));
    open_device();
    for (size_t index = 0; index < sizeof(cases) / sizeof(*cases); index += 1) {
        aclrtPhysicalMemProp prop = prop_of(cases[index].attr, cases[index].host ? on_host : on_device);
        for (int option = 0; option <= 1; option += 1) {
            snprintf(name, sizeof(name), "4.1 granularity of attribute %d on the %s, option %d", cases[index].attr,
                     cases[index].host ? "host" : "device", option);
            bytes = 0;
            aclError code = aclrtMemGetAllocationGranularity(&prop, (aclrtMemGranularityOptions)option, &bytes);
            EXPECT(name, cases[index].expected, code == ACL_SUCCESS ? (long)bytes : (long)code);
        }
    }
    aclrtPhysicalMemProp prop = prop_of(ACL_HBM_MEM_HUGE, on_device);
    EXPECT("1.7 granularity without properties → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemGetAllocationGranularity(NULL, 0, &bytes));
    EXPECT("1.7 granularity without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemGetAllocationGranularity(&prop, 0, NULL));
    EXPECT("1.7 granularity of option 2 → unsupported", ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
           aclrtMemGetAllocationGranularity(&prop, (aclrtMemGranularityOptions)2, &bytes));
    EXPECT("1.7 granularity of the undefined option → unsupported", ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
           aclrtMemGetAllocationGranularity(&prop, ACL_RT_MEM_ALLOC_GRANULARITY_UNDEF, &bytes));
    prop = prop_of(ACL_DDR_MEM, on_device);
    EXPECT("1.7 granularity of an attribute out of the set → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemGetAllocationGranularity(&prop, 0, &bytes));
    prop = prop_of(ACL_DDR_MEM_HUGE, on_device);
    EXPECT("1.7 granularity of DDR on a device → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemGetAllocationGranularity(&prop, 0, &bytes));
    prop = prop_of(ACL_HBM_MEM_HUGE, on_device);
    prop.handleType = ACL_MEM_HANDLE_TYPE_POSIX;
    EXPECT("1.7 granularity does not check the handle type → 0", 0, aclrtMemGetAllocationGranularity(&prop, 0, &bytes));
    close_device();
}

static void reserving(void) {
    void *address = NULL, *second = NULL;
    uint64_t local = 0;
    open_device();
    EXPECT("1.7 reserve without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtReserveMemAddress(NULL,
                                                                                                           GRANULE, 0, NULL, 0));
    EXPECT("1.7 reserve nothing → invalid", ACL_ERROR_INVALID_PARAM, aclrtReserveMemAddress(&address, 0, 0, NULL, 0));
    EXPECT("1.7 reserve with flags 2 → invalid", ACL_ERROR_INVALID_PARAM, aclrtReserveMemAddress(&address, GRANULE, 0,
                                                                                                 NULL, 2));
    EXPECT("4.2 reserve with an alignment → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtReserveMemAddress(&address,
                                                                                                         GRANULE, GRANULE, NULL, 0));
    EXPECT("4.2 reserve → 0", 0, aclrtReserveMemAddress(&address, 8 * MIB, 0, NULL, 0));
    check_true("4.2 a reservation is aligned to 2 MiB", (uintptr_t)address % GRANULE == 0 && address != NULL);
    check_true("4.2 a reservation lies between 16 TiB and 24 TiB",
               (uintptr_t)address >= WINDOW_START && (uintptr_t)address + 8 * MIB <= WINDOW_END);
    EXPECT("4.2 reserve with the legacy flag 1 → 0", 0, aclrtReserveMemAddress(&second, GRANULE, 0, NULL, 1));
    check_true("4.2 reservations do not overlap",
               (uint8_t *)second >= (uint8_t *)address + 8 * MIB || (uint8_t *)second + GRANULE <= (uint8_t *)address);
    EXPECT("1.7 release(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtReleaseMemAddress(NULL));
    EXPECT("4.2 release of what is no reservation → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtReleaseMemAddress(&local));
    EXPECT("4.2 release of a reservation's middle → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtReleaseMemAddress(at(address, GRANULE)));
    EXPECT("4.2 release → 0", 0, aclrtReleaseMemAddress(second));
    EXPECT("4.2 release again → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtReleaseMemAddress(second));
    EXPECT("4.2 release of the first → 0", 0, aclrtReleaseMemAddress(address));
    REQUIRE(aclrtMalloc(&address, GRANULE, ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("4.2 release of an aclrtMalloc → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtReleaseMemAddress(address));
    close_device();
}

static void reserving_at(void) {
    void *address = NULL, *second = NULL;
    void *wish = (void *)(WINDOW_START + 5 * (GIB * 1024));
    open_device();
    EXPECT("4.2 reserve at an address → 0", 0, aclrtReserveMemAddress(&address, GRANULE, 0, wish, 0));
    check_true("4.2 it is that address", address == wish);
    check_error("4.2 reserve at an address that is taken → error", aclrtReserveMemAddress(&second, GRANULE, 0, wish,
                                                                                          0));
    EXPECT("4.2 reserve at an address that is misaligned → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtReserveMemAddress(&second, GRANULE, 0, at(wish, GRANULE + 4 * KIB), 0));
    EXPECT("4.2 reserve 4 MiB at 2 MiB alignment → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtReserveMemAddress(&second, 2 * GRANULE, 0, at(wish, GRANULE), 0));
    EXPECT("4.2 reserve 6 MiB at 4 MiB alignment → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtReserveMemAddress(&second, 3 * GRANULE, 0, at(wish, 2 * GRANULE), 0));
    EXPECT("4.2 reserve 1 GiB at 512 MiB alignment → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtReserveMemAddress(&second, GIB, 0, at(wish, GIB / 2), 0));
    check_error("4.2 reserve at an address out of the window → error",
                aclrtReserveMemAddress(&second, GRANULE, 0, (void *)(WINDOW_END + GIB), 0));
    REQUIRE(aclrtReleaseMemAddress(address));
    EXPECT("4.2 reserve less than 2 MiB → 0", 0, aclrtReserveMemAddress(&address, 4 * KIB, 0, NULL, 0));
    EXPECT("4.2 it was raised to 2 MiB, so that 2 MiB map → 0", 0, aclrtMapMem(address, GRANULE, 0, back(GRANULE), 0));
    close_device();
}

static void backing_elsewhere(void) {
    aclrtDrvMemHandle handle = NULL;
    aclrtPhysicalMemProp prop = prop_of(ACL_MEM_NORMAL, (aclrtMemLocation){.id = 0,
                                                                           .type = ACL_MEM_LOCATION_TYPE_HOST_NUMA});
    EXPECT("1.7 physical memory of a NUMA node without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtMallocPhysical(&handle, GRANULE, &prop, 0));
}

static void backing_properties(void) {
    static const struct {
        int attr;
        int type;
        aclError expected;
    } cases[] = {
        {ACL_DDR_MEM, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {ACL_HBM_MEM, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {ACL_HBM_MEM_P2P_HUGE, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {ACL_HBM_MEM_P2P_NORMAL, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {ACL_HBM_MEM_P2P_HUGE1G, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {18, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {-1, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {ACL_DDR_MEM_HUGE, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {ACL_DDR_MEM_NORMAL, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {ACL_DDR_MEM_P2P_HUGE, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {ACL_DDR_MEM_P2P_NORMAL, ACL_MEM_LOCATION_TYPE_DEVICE, ACL_ERROR_INVALID_PARAM},
        {ACL_HBM_MEM_HUGE, ACL_MEM_LOCATION_TYPE_UNREGISTERED, ACL_ERROR_INVALID_PARAM},
        {ACL_HBM_MEM_HUGE, ACL_MEM_LOCATION_TYPE_MANAGED, ACL_ERROR_INVALID_PARAM},
        {ACL_HBM_MEM_HUGE, ACL_MEM_LOCATION_TYPE_DEVICE, 0},
        {ACL_HBM_MEM_NORMAL, ACL_MEM_LOCATION_TYPE_DEVICE, 0},
        {ACL_MEM_NORMAL, ACL_MEM_LOCATION_TYPE_DEVICE, 0},
        {ACL_MEM_HUGE, ACL_MEM_LOCATION_TYPE_DEVICE, 0},
        {ACL_MEM_NORMAL, ACL_MEM_LOCATION_TYPE_HOST, 0},
        {ACL_MEM_HUGE, ACL_MEM_LOCATION_TYPE_HOST, 0},
        {ACL_DDR_MEM_HUGE, ACL_MEM_LOCATION_TYPE_HOST, 0},
        {ACL_DDR_MEM_NORMAL, ACL_MEM_LOCATION_TYPE_HOST, 0},
    };
    char name[128];
    for (size_t index = 0; index < sizeof(cases) / sizeof(*cases); index += 1) {
        aclrtDrvMemHandle handle = NULL;
        aclrtPhysicalMemProp prop = prop_of((aclrtMemAttr)cases[index].attr, (aclrtMemLocation){.id = 0,
                                                                                                .type = (aclrtMemLocationType)cases[index].type});
        snprintf(name, sizeof(name), "1.7 physical memory of attribute %d at location type %d", cases[index].attr,
                 cases[index].type);
        EXPECT(name, cases[index].expected, aclrtMallocPhysical(&handle, GRANULE, &prop, 0));
        if (handle != NULL) REQUIRE(aclrtFreePhysical(handle));
    }
}

static void backing(void) {
    aclrtDrvMemHandle handle = NULL;
    size_t free = 0, total = 0;
    open_device();
    REQUIRE(aclrtGetMemInfo(ACL_HBM_MEM, &free, &total));
    aclrtPhysicalMemProp prop = prop_of(ACL_HBM_MEM_HUGE, on_device);
    EXPECT("1.7 physical memory without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtMallocPhysical(NULL,
                                                                                                                GRANULE, &prop, 0));
    EXPECT("1.7 physical memory without properties → invalid", ACL_ERROR_INVALID_PARAM, aclrtMallocPhysical(&handle,
                                                                                                            GRANULE, NULL, 0));
    EXPECT("1.7 physical memory of no size → invalid", ACL_ERROR_INVALID_PARAM, aclrtMallocPhysical(&handle, 0, &prop,
                                                                                                    0));
    EXPECT("1.7 physical memory with flags → invalid", ACL_ERROR_INVALID_PARAM, aclrtMallocPhysical(&handle, GRANULE,
                                                                                                    &prop, 1));
    EXPECT("4.1 physical memory of half a granule → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
           aclrtMallocPhysical(&handle, GRANULE / 2, &prop, 0));
    EXPECT("4.1 physical memory of one and a half granules → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
           aclrtMallocPhysical(&handle, GRANULE + GRANULE / 2, &prop, 0));
    EXPECT("4.1 more physical memory than there is → out of memory", ACL_ERROR_RT_MEMORY_ALLOCATION,
           aclrtMallocPhysical(&handle, total / GRANULE * GRANULE + GIB, &prop, 0));
    EXPECT("4.1 that took nothing", free, free_bytes());
    prop.handleType = ACL_MEM_HANDLE_TYPE_POSIX;
    EXPECT("1.7 physical memory with a POSIX handle → invalid", ACL_ERROR_INVALID_PARAM, aclrtMallocPhysical(&handle,
                                                                                                             GRANULE, &prop, 0));
    prop = prop_of(ACL_HBM_MEM_HUGE, on_device);
    prop.allocationType = (aclrtMemAllocationType)1;
    EXPECT("1.7 physical memory that is not pinned → invalid", ACL_ERROR_INVALID_PARAM, aclrtMallocPhysical(&handle,
                                                                                                            GRANULE, &prop, 0));
    prop = prop_of(ACL_HBM_MEM_HUGE, on_device);
    prop.reserve = 1;
    EXPECT("1.7 physical memory with the reserved field set → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtMallocPhysical(&handle, GRANULE, &prop, 0));
    prop = prop_of(ACL_HBM_MEM_HUGE, (aclrtMemLocation){.id = device_count(), .type = ACL_MEM_LOCATION_TYPE_DEVICE});
    EXPECT("1.7 physical memory of a bad device → bad device", ACL_ERROR_RT_INVALID_DEVICEID,
           aclrtMallocPhysical(&handle, GRANULE, &prop, 0));
    prop = prop_of(ACL_MEM_HUGE, (aclrtMemLocation){.id = 1, .type = ACL_MEM_LOCATION_TYPE_HOST});
    EXPECT("1.7 physical memory of the host with an id → unsupported", ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
           aclrtMallocPhysical(&handle, GRANULE, &prop, 0));
    on_new_thread(backing_elsewhere);
    backing_properties();
    EXPECT("1.7 free physical memory NULL → invalid", ACL_ERROR_INVALID_PARAM, aclrtFreePhysical(NULL));
    handle = back(4 * GRANULE);
    EXPECT("1.7 physical memory is taken when it is allocated", free - 4 * GRANULE, free_bytes());
    EXPECT("1.7 free physical memory → 0", 0, aclrtFreePhysical(handle));
    EXPECT("1.7 physical memory is given back when it is freed", free, free_bytes());
    close_device();
}

static void properties_read_back(void) {
    static const struct {
        aclrtMemAttr asked;
        bool host;
        aclrtMemAttr told;
    } cases[] = {
        {ACL_HBM_MEM_HUGE, false, ACL_HBM_MEM_HUGE},     {ACL_HBM_MEM_NORMAL, false, ACL_HBM_MEM_NORMAL},
        {ACL_MEM_HUGE, false, ACL_HBM_MEM_HUGE},         {ACL_MEM_NORMAL, false, ACL_HBM_MEM_NORMAL},
        {ACL_MEM_NORMAL, true, ACL_MEM_NORMAL},          {ACL_MEM_HUGE, true, ACL_MEM_HUGE},
        {ACL_DDR_MEM_NORMAL, true, ACL_MEM_NORMAL},      {ACL_DDR_MEM_HUGE, true, ACL_MEM_HUGE},
        {ACL_DDR_MEM_P2P_NORMAL, true, ACL_DDR_MEM_P2P_NORMAL}, {ACL_DDR_MEM_P2P_HUGE, true, ACL_MEM_P2P_HUGE},
    };
    char name[128];
    open_device();
    for (size_t index = 0; index < sizeof(cases) / sizeof(*cases); index += 1) {
        aclrtDrvMemHandle handle = NULL;
        aclrtPhysicalMemProp prop = prop_of(cases[index].asked, cases[index].host ? on_host : on_device);
        aclrtPhysicalMemProp told;
        memset(&told, 0xFF, sizeof(told));
        REQUIRE(aclrtMallocPhysical(&handle, GRANULE, &prop, 0));
        snprintf(name, sizeof(name), "1.7 attribute %d on the %s reads back", cases[index].asked,
                 cases[index].host ? "host" : "device");
        aclError code = aclrtMemGetAllocationPropertiesFromHandle(handle, &told);
        EXPECT(name, cases[index].told, code == ACL_SUCCESS ? (long)told.memAttr : (long)code);
        snprintf(name, sizeof(name), "1.7 the rest of attribute %d on the %s reads back", cases[index].asked,
                 cases[index].host ? "host" : "device");
        check_true(name,
                   told.handleType == ACL_MEM_HANDLE_TYPE_NONE && told.allocationType == ACL_MEM_ALLOCATION_TYPE_PINNED &&
                             told.location.id == prop.location.id && told.location.type == prop.location.type);
        REQUIRE(aclrtFreePhysical(handle));
    }
    aclrtPhysicalMemProp told;
    EXPECT("1.7 properties of NULL → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemGetAllocationPropertiesFromHandle(NULL,
                                                                                                                  &told));
    EXPECT("1.7 properties without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemGetAllocationPropertiesFromHandle(back(GRANULE), NULL));
    close_device();
}

const struct group physical_groups[] = {
    {"granularity", granularity},
    {"reserving", reserving},
    {"reserving at an address", reserving_at},
    {"backing", backing},
    {"properties read back", properties_read_back},
    {0},
};
