/* Helpers of the checks of virtual memory management. Where drivers differ, the checks expect that of Atlas A2 and A3. */
#ifndef CAMEM_TEST_CONFORMANCE_VMM_H
#define CAMEM_TEST_CONFORMANCE_VMM_H

#include <string.h>

#include "conformance.h"

static const aclrtMemLocation on_device = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_DEVICE};
static const aclrtMemLocation on_host = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_HOST};

static inline aclrtPhysicalMemProp prop_of(aclrtMemAttr attr, aclrtMemLocation location) {
    aclrtPhysicalMemProp prop;
    memset(&prop, 0, sizeof(prop));
    prop.memAttr = attr;
    prop.location = location;
    return prop;
}

static inline void *reserve(size_t sizeBytes) {
    void *address = NULL;
    REQUIRE(aclrtReserveMemAddress(&address, sizeBytes, 0, NULL, 0));
    return address;
}

static inline aclrtDrvMemHandle back(size_t sizeBytes) {
    aclrtDrvMemHandle handle = NULL;
    aclrtPhysicalMemProp prop = prop_of(ACL_HBM_MEM_HUGE, on_device);
    REQUIRE(aclrtMallocPhysical(&handle, sizeBytes, &prop, 0));
    return handle;
}

static inline void *at(void *base, size_t offset) { return (uint8_t *)base + offset; }

static inline size_t free_bytes(void) {
    size_t free = 0, total = 0;
    REQUIRE(aclrtGetMemInfo(ACL_HBM_MEM, &free, &total));
    return free;
}

static inline long first_word(void *address) {
    uint32_t word = 0;
    REQUIRE(aclrtMemcpy(&word, sizeof(word), address, sizeof(word), ACL_MEMCPY_DEVICE_TO_HOST));
    return word;
}

static inline void set_first_word(void *address, uint32_t word) {
    REQUIRE(aclrtMemcpy(address, sizeof(word), &word, sizeof(word), ACL_MEMCPY_HOST_TO_DEVICE));
}

#endif
