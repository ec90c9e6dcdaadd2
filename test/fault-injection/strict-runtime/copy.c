/* Copies: immediate, or queued until a caller waits for them. */

#include "strict.h"

#include <stdlib.h>
#include <string.h>

#define PAGE ((size_t)4096)
#define DEVICE_POISON 0xD7

/* Fills fresh memory with garbage on first access, so that large memory costs nothing. */
static void settle_pages(strict_physical *physical, size_t offset, size_t bytes, bool writing) {
    for (size_t page = offset / PAGE; page * PAGE < offset + bytes; page++) {
        if (physical->written[page]) continue;
        bool covered = writing && page * PAGE >= offset && (page + 1) * PAGE <= offset + bytes;
        if (!covered) memset(physical->bytes + page * PAGE, DEVICE_POISON, PAGE);
        physical->written[page] = 1;
    }
}

/* The host location of the bytes at an address and their contiguous length; NULL when nothing is mapped there. */
static uint8_t *content(uintptr_t address, size_t wanted, bool writing, size_t *length) {
    *length = wanted;
    if (!strict_is_device_address(address)) return (uint8_t *)address;
    strict_mapping *mapping = strict_mapping_at(address);
    if (!mapping) return NULL;
    size_t offset = address - mapping->address;
    if (*length > mapping->size - offset) *length = mapping->size - offset;
    settle_pages(mapping->physical, offset, *length, writing);
    return mapping->physical->bytes + offset;
}

static bool is_mapped(uintptr_t address, size_t bytes) {
    while (bytes > 0) {
        strict_mapping *mapping = strict_mapping_at(address);
        if (!mapping) return false;
        size_t length = mapping->size - (address - mapping->address);
        if (length >= bytes) return true;
        address += length;
        bytes -= length;
    }
    return true;
}

static void move_bytes(uintptr_t target, uintptr_t source, size_t bytes) {
    while (bytes > 0) {
        size_t from_length, to_length;
        uint8_t *from = content(source, bytes, false, &from_length);
        uint8_t *to = from ? content(target, from_length, true, &to_length) : NULL;
        if (!to) {
            strict_misuse("memory of a queued copy is gone");
            return;
        }
        memmove(to, from, to_length);
        target += to_length;
        source += to_length;
        bytes -= to_length;
    }
}

static void set_bytes(uintptr_t target, uint8_t value, size_t bytes) {
    while (bytes > 0) {
        size_t length;
        uint8_t *to = content(target, bytes, true, &length);
        if (!to) {
            strict_misuse("memory of a queued fill is gone");
            return;
        }
        memset(to, value, length);
        target += length;
        bytes -= length;
    }
}

static strict_copy *take_first(strict_stream *stream) {
    strict_copy *copy = stream->first;
    stream->first = copy->next;
    return copy;
}

void strict_run_queue(strict_stream *stream) {
    while (stream->first) {
        strict_copy *copy = take_first(stream);
        if (copy->source)
            move_bytes(copy->target, copy->source, copy->bytes);
        else
            set_bytes(copy->target, copy->value, copy->bytes);
        free(copy);
    }
}

/* Ends every queued copy with its target half written. */
static void break_queue(strict_stream *stream) {
    while (stream->first) {
        strict_copy *copy = take_first(stream);
        set_bytes(copy->target, DEVICE_POISON, copy->bytes);
        free(copy);
    }
}

void strict_fail_queue(strict_stream *stream, aclError code) {
    switch (code) {
        case ACL_SUCCESS:
        case STRICT_ERROR_AICORE_OVERFLOW:
        case STRICT_ERROR_AIVEC_OVERFLOW:
        case STRICT_ERROR_OVERFLOW:
        case STRICT_ERROR_END_OF_SEQUENCE:
        case STRICT_ERROR_MODEL_ABORT_NORMAL:
            strict_run_queue(stream);
            return;
        case ACL_ERROR_RT_STREAM_SYNC_TIMEOUT:
        case STRICT_ERROR_TIMEOUT:
        case STRICT_ERROR_REPORT_TIMEOUT:
            return;
        default:
            break_queue(stream);
    }
}

static bool overlaps(uintptr_t a, size_t a_bytes, uintptr_t b,
                     size_t b_bytes) { return a < b + b_bytes && b < a + a_bytes; }

strict_copy *strict_queued_at(uintptr_t address, size_t bytes) {
    for (strict_stream *stream = strict_streams(); stream; stream = stream->next) {
        for (strict_copy *copy = stream->first; copy; copy = copy->next) {
            if (overlaps(copy->target, copy->bytes, address, bytes) || overlaps(copy->source, copy->bytes, address,
                                                                                bytes))
                return copy;
        }
    }
    return NULL;
}

void strict_break_copies_at(uintptr_t address, size_t bytes) {
    for (strict_stream *stream = strict_streams(); stream; stream = stream->next) {
        for (strict_copy **link = &stream->first; *link;) {
            strict_copy *copy = *link;
            if (!overlaps(copy->target, copy->bytes, address, bytes) && !overlaps(copy->source, copy->bytes, address,
                                                                                  bytes)) {
                link = &copy->next;
                continue;
            }
            *link = copy->next;
            free(copy);
            stream->failure = STRICT_ERROR_DMA;
        }
    }
}

/* Copies on different streams have no order, so they must not share bytes that one of them writes. */
static void check_races(uintptr_t target, uintptr_t source, size_t bytes, const strict_stream *own) {
    for (strict_stream *stream = strict_streams(); stream; stream = stream->next) {
        if (stream == own) continue;
        for (strict_copy *copy = stream->first; copy; copy = copy->next) {
            bool written = overlaps(copy->target, copy->bytes, target, bytes) || overlaps(copy->source, copy->bytes,
                                                                                          target, bytes);
            bool read = source != 0 && overlaps(copy->target, copy->bytes, source, bytes);
            if (!written && !read) continue;
            strict_misuse("races with a copy that is queued on another stream");
            return;
        }
    }
}

/* Checks one side of a copy; returns 0 or the code of the failure. */
static aclError check_side(uintptr_t address, size_t bytes, const char *side) {
    if (strict_is_device_address(address)) {
        if (!is_mapped(address, bytes)) {
            strict_misuse("the %s 0x%zx with %zu bytes is not all mapped", side, address, bytes);
            return ACL_ERROR_RT_DRV_INTERNAL_ERROR;
        }
        uint32_t owner = strict_mapping_at(address)->physical->device;
        if (owner != strict_current()->device)
            strict_misuse("the %s is on device %u, the current context on %u", side, owner, strict_current()->device);
    } else if (strict_is_page_locked(address, bytes) < 0) {
        strict_misuse("the %s 0x%zx touches freed host memory or goes beyond a block's end", side, address);
        return ACL_ERROR_RT_PARAM_INVALID;
    }
    return ACL_SUCCESS;
}

static aclrtMemcpyKind kind_of(uintptr_t target, uintptr_t source) {
    if (strict_is_device_address(source))
        return strict_is_device_address(target) ? ACL_MEMCPY_DEVICE_TO_DEVICE : ACL_MEMCPY_DEVICE_TO_HOST;
    return strict_is_device_address(target) ? ACL_MEMCPY_HOST_TO_DEVICE : ACL_MEMCPY_HOST_TO_HOST;
}

static aclError check_copy(uintptr_t target, size_t room, uintptr_t source, size_t count, aclrtMemcpyKind kind) {
    if (!target || !source) {
        strict_misuse("an address is NULL");
        return ACL_ERROR_INVALID_PARAM;
    }
    if ((int)kind < 0 || kind > ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE) {
        strict_misuse("there is no direction %d", (int)kind);
        return ACL_ERROR_INVALID_PARAM;
    }
    /* Newer releases return success, older ones this code, so portable programs avoid the call. */
    if (count == 0 || room == 0 || count > room) {
        strict_misuse("%zu bytes into %zu", count, room);
        return ACL_ERROR_RT_PARAM_INVALID;
    }
    if (target == source) strict_misuse("the target is the source");
    if (kind != ACL_MEMCPY_DEFAULT && kind != kind_of(target, source)) strict_misuse("the direction is not %d",
                                                                                     (int)kind);
    aclError code = check_side(source, count, "source");
    return code != ACL_SUCCESS ? code : check_side(target, count, "target");
}

aclError aclrtMemcpy(void *dst, size_t destMax, const void *src, size_t count, aclrtMemcpyKind kind) {
    STRICT_BEGIN(STRICT_CONTEXT);
    uintptr_t target = (uintptr_t)dst, source = (uintptr_t)src;
    aclError code = check_copy(target, destMax, source, count, kind);
    if (code != ACL_SUCCESS) return strict_end(code);
    check_races(target, source, count, NULL);
    move_bytes(target, source, count);
    return strict_end(ACL_SUCCESS);
}

static aclError check_fill(uintptr_t target, size_t room, size_t count) {
    if (count == 0 || !target) {
        strict_misuse("%zu bytes at 0x%zx", count, target);
        return ACL_ERROR_INVALID_PARAM;
    }
    if (count > room) {
        strict_misuse("%zu bytes into %zu", count, room);
        return ACL_ERROR_RT_PARAM_INVALID;
    }
    if (!strict_is_device_address(target)) strict_misuse("the target is not device memory");
    return check_side(target, count, "target");
}

aclError aclrtMemset(void *devPtr, size_t maxCount, int32_t value, size_t count) {
    STRICT_BEGIN(STRICT_CONTEXT);
    uintptr_t target = (uintptr_t)devPtr;
    aclError code = check_fill(target, maxCount, count);
    if (code != ACL_SUCCESS) return strict_end(code);
    check_races(target, 0, count, NULL);
    set_bytes(target, (uint8_t)value, count);
    return strict_end(ACL_SUCCESS);
}

static strict_stream *stream_for_copy(aclrtStream handle) {
    if (!handle) return strict_current()->default_stream;
    for (strict_stream *stream = strict_streams(); stream; stream = stream->next) {
        if (stream == strict_object(handle)) return stream->alive ? stream : NULL;
    }
    return NULL;
}

static void append(strict_stream *stream, strict_copy queued) {
    strict_copy *copy = malloc(sizeof *copy);
    if (!copy) abort();
    *copy = queued;
    strict_copy **link = &stream->first;
    while (*link) link = &(*link)->next;
    *link = copy;
}

aclError aclrtMemcpyAsync(void *dst, size_t destMax, const void *src, size_t count, aclrtMemcpyKind kind,
                          aclrtStream handle) {
    STRICT_BEGIN(STRICT_CONTEXT);
    uintptr_t target = (uintptr_t)dst, source = (uintptr_t)src;
    strict_stream *stream = stream_for_copy(handle);
    if (!stream) return strict_refuse(ACL_ERROR_RT_INVALID_HANDLE, "the stream is stale or none");
    if (stream->context != strict_current())
        return strict_refuse(ACL_ERROR_RT_STREAM_CONTEXT, "the stream belongs to another context");
    aclError code = check_copy(target, destMax, source, count, kind);
    if (code != ACL_SUCCESS) return strict_end(code);
    if (kind_of(target, source) == ACL_MEMCPY_HOST_TO_HOST)
        return strict_refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "both sides are on the host");
    check_races(target, source, count, stream);
    bool pageable = (!strict_is_device_address(target) && strict_is_page_locked(target, count) == 0) ||
                    (!strict_is_device_address(source) && strict_is_page_locked(source, count) == 0);
    if (pageable && kind != ACL_MEMCPY_DEFAULT && kind != kind_of(target,
                                                                  source)) return strict_end(ACL_ERROR_RT_PARAM_INVALID);
    append(stream, (strict_copy){.target = target, .source = source, .bytes = count});
    if (pageable) {
        strict_misuse("host memory that is not page-locked makes the copy synchronous");
        strict_run_queue(stream);
    }
    return strict_end(ACL_SUCCESS);
}

aclError aclrtMemsetAsync(void *devPtr, size_t maxCount, int32_t value, size_t count, aclrtStream handle) {
    STRICT_BEGIN(STRICT_CONTEXT);
    uintptr_t target = (uintptr_t)devPtr;
    strict_stream *stream = stream_for_copy(handle);
    if (!stream) return strict_refuse(ACL_ERROR_RT_INVALID_HANDLE, "the stream is stale or none");
    if (stream->context != strict_current())
        return strict_refuse(ACL_ERROR_RT_STREAM_CONTEXT, "the stream belongs to another context");
    aclError code = check_fill(target, maxCount, count);
    if (code != ACL_SUCCESS) return strict_end(code);
    check_races(target, 0, count, stream);
    append(stream, (strict_copy){.target = target, .bytes = count, .value = (uint8_t)value});
    return strict_end(ACL_SUCCESS);
}
