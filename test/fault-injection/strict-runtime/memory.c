/* Page-locked host memory and virtual memory management. */

#include "strict.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define WINDOW_START ((uintptr_t)16 << 40)
#define WINDOW_END ((uintptr_t)24 << 40)
#define LONGEST_RESERVATION ((size_t)128 << 30)
#define PAGE ((size_t)4096)
#define HOST_POISON 0x5B
/* In larger memory only the first and the last half of this size are filled with garbage. */
#define HOST_POISON_CAP ((size_t)64 << 20)

typedef struct reservation {
    struct reservation *next;
    uintptr_t address;
    size_t size;
    /* The device of the first mapping, or -1. */
    int64_t device;
} reservation;

typedef struct host_block {
    struct host_block *next;
    uintptr_t address;
    size_t size;
    size_t span;
    bool alive;
} host_block;

static reservation *reservations;
/* The address released last is used first. */
static reservation *released;
static strict_mapping *mappings;
static strict_physical *physicals;
static host_block *host_blocks;
/* Aligned to no more than the documented alignment. */
static uintptr_t next_address = WINDOW_START + STRICT_GRANULE;

void strict_count_memory(strict_report_t *report) {
    for (reservation *entry = reservations; entry; entry = entry->next) report->reservations++;
    for (strict_mapping *entry = mappings; entry; entry = entry->next) report->mappings++;
    for (strict_physical *entry = physicals; entry; entry = entry->next) {
        report->physical_handles += entry->held;
        report->physical_bytes += entry->size;
    }
    for (host_block *entry = host_blocks; entry; entry = entry->next) {
        report->host_blocks += entry->alive;
        report->host_bytes += entry->alive ? entry->size : 0;
    }
}

uint64_t strict_used_bytes(uint32_t device) {
    uint64_t used = 0;
    for (strict_physical *entry = physicals; entry; entry = entry->next) used += entry->device == device ? entry->size : 0;
    return used;
}

void strict_close_device_memory(uint32_t device) {
    for (strict_mapping *entry = mappings; entry; entry = entry->next) {
        if (entry->physical->device == device) strict_misuse("0x%zx is still mapped on device %u", entry->address,
                                                             device);
    }
    for (strict_physical *entry = physicals; entry; entry = entry->next) {
        if (entry->device == device) strict_misuse("%zu bytes of device %u are still allocated", entry->size, device);
    }
    for (reservation *entry = reservations; entry; entry = entry->next) {
        if (entry->device == device) strict_misuse("0x%zx is still reserved for device %u", entry->address, device);
    }
}

bool strict_is_device_address(uintptr_t address) { return address >= WINDOW_START && address < WINDOW_END; }

strict_mapping *strict_mapping_at(uintptr_t address) {
    for (strict_mapping *entry = mappings; entry; entry = entry->next) {
        if (address >= entry->address && address - entry->address < entry->size) return entry;
    }
    return NULL;
}

/* Page-locked host memory: between guard pages, filled with garbage, and unreadable once freed. */

aclError aclrtMallocHost(void **hostPtr, size_t size) {
    STRICT_SCRIBBLE(hostPtr);
    STRICT_BEGIN(STRICT_CONTEXT);
    if (!hostPtr || size == 0) return strict_refuse(ACL_ERROR_INVALID_PARAM, "hostPtr is NULL or size 0");
    size_t span = (size + PAGE - 1) / PAGE * PAGE;
    uint8_t *range = mmap(NULL, span + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    host_block *block = calloc(1, sizeof *block);
    if (range == MAP_FAILED || !block || mprotect(range + PAGE, span, PROT_READ | PROT_WRITE) != 0)
        return strict_end(ACL_ERROR_RT_MEMORY_ALLOCATION);
    uint8_t *start = range + PAGE;
    if (size <= HOST_POISON_CAP) {
        memset(start, HOST_POISON, size);
    } else {
        memset(start, HOST_POISON, HOST_POISON_CAP / 2);
        memset(start + size - HOST_POISON_CAP / 2, HOST_POISON, HOST_POISON_CAP / 2);
    }
    *block = (host_block){.next = host_blocks, .address = (uintptr_t)start, .size = size, .span = span, .alive = true};
    host_blocks = block;
    *hostPtr = start;
    return strict_end(ACL_SUCCESS);
}

aclError aclrtFreeHost(void *hostPtr) {
    STRICT_BEGIN(STRICT_ANYWHERE);
    if (!hostPtr) return strict_refuse(ACL_ERROR_INVALID_PARAM, "hostPtr is NULL");
    for (host_block *block = host_blocks; block; block = block->next) {
        if (!block->alive || block->address != (uintptr_t)hostPtr) continue;
        if (strict_queued_at(block->address, block->size)) strict_misuse("a queued copy still uses the memory");
        strict_break_copies_at(block->address, block->size);
        madvise(hostPtr, block->span, MADV_DONTNEED);
        mprotect(hostPtr, block->span, PROT_NONE);
        block->alive = false;
        return strict_end(ACL_SUCCESS);
    }
    return strict_refuse(ACL_ERROR_RT_PARAM_INVALID, "%p is not of aclrtMallocHost", hostPtr);
}

int strict_is_page_locked(uintptr_t address, size_t bytes) {
    for (host_block *block = host_blocks; block; block = block->next) {
        if (address + bytes <= block->address || address >= block->address + block->span) continue;
        bool inside = address >= block->address && address + bytes <= block->address + block->size;
        return block->alive && inside ? 1 : -1;
    }
    return 0;
}

/* Reservations stay unreadable, also once released. */

static uintptr_t reused_address(size_t span) {
    for (reservation **link = &released; *link; link = &(*link)->next) {
        reservation *entry = *link;
        if (entry->size < span) continue;
        uintptr_t address = entry->address;
        *link = entry->next;
        free(entry);
        return address;
    }
    return 0;
}

static uintptr_t fresh_address(size_t span) {
    while (next_address + span < WINDOW_END) {
        void *wanted = (void *)next_address;
        next_address += (span / STRICT_GRANULE % 2 == 0 ? span : span + STRICT_GRANULE) + 2 * STRICT_GRANULE;
        void *got = mmap(wanted, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
                         0);
        if (got != MAP_FAILED) return (uintptr_t)got;
    }
    return 0;
}

aclError aclrtReserveMemAddress(void **virPtr, size_t size, size_t alignment, void *expectPtr, uint64_t flags) {
    STRICT_SCRIBBLE(virPtr);
    STRICT_BEGIN(STRICT_DEVICE);
    if (!virPtr || size == 0 || flags > 1) return strict_refuse(ACL_ERROR_INVALID_PARAM, "virPtr, size or flags");
    if (alignment != 0) return strict_refuse(ACL_ERROR_RT_PARAM_INVALID, "the alignment is %zu, not 0", alignment);
    if (expectPtr) return strict_refuse(ACL_ERROR_RT_PARAM_INVALID, "an address of one's own choice is not portable");
    if (size % STRICT_GRANULE != 0) strict_misuse("%zu bytes are not a multiple of 2 MiB", size);
    size_t span = (size + STRICT_GRANULE - 1) / STRICT_GRANULE * STRICT_GRANULE;
    reservation *entry = calloc(1, sizeof *entry);
    if (!entry || span > LONGEST_RESERVATION) return strict_end(ACL_ERROR_RT_MEMORY_ALLOCATION);
    uintptr_t address = strict_option("STRICT_REUSE_ADDRESSES", 0) ? reused_address(span) : 0;
    if (!address) address = fresh_address(span);
    if (!address) {
        free(entry);
        return strict_end(ACL_ERROR_RT_MEMORY_ALLOCATION);
    }
    *entry = (reservation){.next = reservations, .address = address, .size = span, .device = -1};
    reservations = entry;
    *virPtr = (void *)address;
    return strict_end(ACL_SUCCESS);
}

aclError aclrtReleaseMemAddress(void *virPtr) {
    STRICT_BEGIN(STRICT_DEVICE);
    if (!virPtr) return strict_refuse(ACL_ERROR_INVALID_PARAM, "virPtr is NULL");
    for (reservation **link = &reservations; *link; link = &(*link)->next) {
        reservation *entry = *link;
        if (entry->address != (uintptr_t)virPtr) continue;
        for (strict_mapping *mapping = mappings; mapping; mapping = mapping->next) {
            if (mapping->address >= entry->address && mapping->address - entry->address < entry->size)
                return strict_refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "%p is still mapped", virPtr);
        }
        *link = entry->next;
        entry->next = released;
        released = entry;
        return strict_end(ACL_SUCCESS);
    }
    return strict_refuse(ACL_ERROR_RT_PARAM_INVALID, "%p is not the start of a reservation", virPtr);
}

static bool is_ddr(aclrtMemAttr attr) {
    return attr == ACL_DDR_MEM_HUGE || attr == ACL_DDR_MEM_NORMAL || attr == ACL_DDR_MEM_P2P_HUGE || attr == ACL_DDR_MEM_P2P_NORMAL;
}

static bool is_physical_attr(aclrtMemAttr attr) {
    return (attr >= ACL_DDR_MEM_HUGE && attr <= ACL_DDR_MEM_P2P_NORMAL) || attr == ACL_HBM_MEM_HUGE1G ||
           (attr >= ACL_MEM_NORMAL && attr <= ACL_MEM_P2P_HUGE1G);
}

/* Returns 0 for a property that AscendCL accepts, else its code. Padding that is not zero counts as misuse only. */
static aclError check_property(const aclrtPhysicalMemProp *prop) {
    static const uint8_t zeros[4];
    if (memcmp((const uint8_t *)prop + 20, zeros,
               sizeof zeros) != 0) strict_misuse("the padding of the property is not zero");
    bool valid = prop->handleType == ACL_MEM_HANDLE_TYPE_NONE && prop->allocationType == ACL_MEM_ALLOCATION_TYPE_PINNED &&
                 prop->location.type == ACL_MEM_LOCATION_TYPE_DEVICE && is_physical_attr(prop->memAttr) && !is_ddr(prop->memAttr);
    if (!valid) return ACL_ERROR_INVALID_PARAM;
    if (prop->location.id >= strict_device_count()) return ACL_ERROR_RT_INVALID_DEVICEID;
    return prop->reserve != 0 ? ACL_ERROR_RT_PARAM_INVALID : ACL_SUCCESS;
}

aclError aclrtMemGetAllocationGranularity(aclrtPhysicalMemProp *prop, aclrtMemGranularityOptions option,
                                          size_t *granularity) {
    STRICT_SCRIBBLE(granularity);
    STRICT_BEGIN(STRICT_DEVICE);
    if (!prop || !granularity) return strict_refuse(ACL_ERROR_INVALID_PARAM, "an argument is NULL");
    aclError code = check_property(prop);
    if (code != ACL_SUCCESS) return strict_refuse(code, "the property is not valid");
    if (option != ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM && option != ACL_RT_MEM_ALLOC_GRANULARITY_RECOMMENDED)
        return strict_refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "there is no option %d", (int)option);
    *granularity = STRICT_GRANULE;
    return strict_end(ACL_SUCCESS);
}

aclError aclrtMallocPhysical(aclrtDrvMemHandle *handle, size_t size, const aclrtPhysicalMemProp *prop, uint64_t flags) {
    STRICT_SCRIBBLE(handle);
    STRICT_BEGIN(STRICT_DEVICE);
    if (!handle || !prop || size == 0 || flags != 0) return strict_refuse(ACL_ERROR_INVALID_PARAM,
                                                                          "handle, prop, size or flags");
    aclError code = check_property(prop);
    if (code != ACL_SUCCESS) return strict_refuse(code, "the property is not valid");
    if (size % STRICT_GRANULE != 0)
        return strict_refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "%zu bytes are not a multiple of 2 MiB", size);
    uint32_t device = prop->location.id;
    if (size > strict_hbm_bytes() - strict_used_bytes(device)) return strict_end(ACL_ERROR_RT_MEMORY_ALLOCATION);
    strict_physical *physical = calloc(1, sizeof *physical);
    uint8_t *written = calloc(size / PAGE, 1);
    void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!physical || !written || bytes == MAP_FAILED) return strict_end(ACL_ERROR_RT_MEMORY_ALLOCATION);
    *physical = (strict_physical){.next = physicals, .bytes = bytes, .written = written, .size = size, .device = device, .held = true};
    physicals = physical;
    *handle = strict_new_handle(physical);
    return strict_end(ACL_SUCCESS);
}

/* The last release frees the record and its content; a stale handle is then unknown. */
static void drop_physical(strict_physical *physical) {
    if (physical->held || physical->mappings > 0) return;
    strict_physical **link = &physicals;
    while (*link != physical) link = &(*link)->next;
    *link = physical->next;
    munmap(physical->bytes, physical->size);
    free(physical->written);
    physical->written = NULL;
}

static strict_physical *physical_of(aclrtDrvMemHandle handle) {
    for (strict_physical *entry = physicals; entry; entry = entry->next) {
        if (entry == strict_object(handle)) return entry;
    }
    return NULL;
}

aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
    STRICT_BEGIN(STRICT_DEVICE);
    if (!handle) return strict_refuse(ACL_ERROR_INVALID_PARAM, "handle is NULL");
    strict_physical *physical = physical_of(handle);
    if (!physical || !physical->held) return strict_refuse(ACL_ERROR_RT_PARAM_INVALID, "the handle is stale or none");
    physical->held = false;
    drop_physical(physical);
    return strict_end(ACL_SUCCESS);
}

static reservation *reservation_around(uintptr_t address, size_t size) {
    for (reservation *entry = reservations; entry; entry = entry->next) {
        bool starts_inside = address >= entry->address && address - entry->address < entry->size;
        if (starts_inside && size <= entry->size - (address - entry->address)) return entry;
    }
    return NULL;
}

aclError aclrtMapMem(void *virPtr, size_t size, size_t offset, aclrtDrvMemHandle handle, uint64_t flags) {
    STRICT_BEGIN(STRICT_DEVICE);
    uintptr_t address = (uintptr_t)virPtr;
    if (!virPtr || !handle || size == 0 || flags != 0)
        return strict_refuse(ACL_ERROR_INVALID_PARAM, "virPtr, handle, size or flags");
    if (offset != 0) return strict_refuse(ACL_ERROR_RT_PARAM_INVALID, "the offset is %zu, not 0", offset);
    reservation *around = reservation_around(address, size);
    if (!around) return strict_refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "%p is not within one reservation", virPtr);
    if (address % STRICT_GRANULE != 0 || size % STRICT_GRANULE != 0)
        return strict_refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "%p or %zu is not a multiple of 2 MiB", virPtr, size);
    for (strict_mapping *entry = mappings; entry; entry = entry->next) {
        if (address < entry->address + entry->size && entry->address < address + size)
            return strict_refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "%p is already mapped", virPtr);
    }
    strict_physical *physical = physical_of(handle);
    if (!physical || !physical->held) return strict_refuse(ACL_ERROR_RT_INVALID_HANDLE, "the handle is stale or none");
    if (around->device >= 0 && around->device != physical->device)
        return strict_refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "the reservation belongs to device %d",
                             (int)around->device);
    if (size > physical->size) return strict_refuse(ACL_ERROR_RT_MEMORY_ALLOCATION,
                                                    "%zu bytes are more than the memory has", size);
    if (size != physical->size) strict_misuse("%zu bytes are not all of the memory's %zu", size, physical->size);
    strict_mapping *mapping = calloc(1, sizeof *mapping);
    if (!mapping) return strict_end(ACL_ERROR_RT_MEMORY_ALLOCATION);
    *mapping = (strict_mapping){.next = mappings, .address = address, .size = size, .physical = physical};
    mappings = mapping;
    physical->mappings++;
    around->device = physical->device;
    return strict_end(ACL_SUCCESS);
}

aclError aclrtUnmapMem(void *virPtr) {
    STRICT_BEGIN(STRICT_DEVICE);
    if (!virPtr) return strict_refuse(ACL_ERROR_INVALID_PARAM, "virPtr is NULL");
    for (strict_mapping **link = &mappings; *link; link = &(*link)->next) {
        strict_mapping *entry = *link;
        if (entry->address != (uintptr_t)virPtr) continue;
        if (strict_queued_at(entry->address, entry->size))
            return strict_refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "a queued copy still uses %p", virPtr);
        *link = entry->next;
        entry->physical->mappings--;
        drop_physical(entry->physical);
        free(entry);
        return strict_end(ACL_SUCCESS);
    }
    return strict_refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "%p is not the start of a mapping", virPtr);
}

aclError aclrtMemSetAccess(void *virPtr, size_t size, aclrtMemAccessDesc *desc, size_t count) {
    STRICT_BEGIN(STRICT_DEVICE);
    if (!virPtr || !desc || count == 0) return strict_refuse(ACL_ERROR_RT_PARAM_INVALID, "virPtr, desc or count");
    if (count > 1) return strict_refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "only one description works, not %zu", count);
    if (desc->flags != ACL_RT_MEM_ACCESS_FLAGS_READWRITE)
        return strict_refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "only reading and writing can be granted");
    strict_mapping *mapping = strict_mapping_at((uintptr_t)virPtr);
    if (!mapping || mapping->address != (uintptr_t)virPtr || mapping->size != size)
        return strict_refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "%p and %zu are not those of aclrtMapMem", virPtr, size);
    bool owner = desc->location.type == ACL_MEM_LOCATION_TYPE_DEVICE && desc->location.id == mapping->physical->device;
    if (!owner) return strict_refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "only the owner has access here");
    return strict_end(ACL_SUCCESS);
}
