/* Section 5: copies, one by one and in batches. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"

enum { COPY_BYTES = 4096, MOST_BATCHED = 4096 };

static struct {
    aclrtStream stream;
    uint8_t *pinned;
    uint8_t *pinned_too;
    uint8_t *pageable;
    void *device;
    void *device_too;
} on;

static void open_copies(void) {
    open_device();
    REQUIRE(aclrtCreateStream(&on.stream));
    REQUIRE(aclrtMallocHost((void **)&on.pinned, COPY_BYTES));
    REQUIRE(aclrtMallocHost((void **)&on.pinned_too, COPY_BYTES));
    REQUIRE(aclrtMalloc(&on.device, COPY_BYTES, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtMalloc(&on.device_too, COPY_BYTES, ACL_MEM_MALLOC_HUGE_FIRST));
    on.pageable = malloc(COPY_BYTES);
}

static void close_copies(void) {
    free(on.pageable);
    close_device();
}

static void copy_rules(void) {
    open_copies();
    EXPECT("5 a copy of nothing comes before any check → 0", 0, aclrtMemcpy(NULL, 0, NULL, 0, (aclrtMemcpyKind)99));
    EXPECT("5 an asynchronous copy of nothing comes before any check → 0", 0, aclrtMemcpyAsync(NULL, 0, NULL, 0,
                                                                                               (aclrtMemcpyKind)99, on.stream));
    EXPECT("5 a copy to NULL → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemcpy(NULL, 1, on.pinned, 1,
                                                                              ACL_MEMCPY_HOST_TO_DEVICE));
    EXPECT("5 a copy from NULL → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemcpy(on.device, 1, NULL, 1,
                                                                                ACL_MEMCPY_HOST_TO_DEVICE));
    EXPECT("5 an asynchronous copy to NULL → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyAsync(NULL, 1, on.pinned, 1, ACL_MEMCPY_HOST_TO_DEVICE, on.stream));
    EXPECT("5 an asynchronous copy from NULL → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyAsync(on.device, 1, NULL, 1, ACL_MEMCPY_HOST_TO_DEVICE, on.stream));
    for (int kind = -1; kind <= 8; kind += 1) {
        char name[96];
        bool known = kind >= 0 && kind <= 5;
        snprintf(name, sizeof(name), "5 a copy of kind %d → %s", kind, known ? "0" : "invalid");
        EXPECT(name, known ? 0 : ACL_ERROR_INVALID_PARAM,
               aclrtMemcpy(on.device, COPY_BYTES, on.pinned, COPY_BYTES, (aclrtMemcpyKind)kind));
    }
    EXPECT("5 an asynchronous copy of kind 6 → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyAsync(on.device, 1, on.pinned, 1, ACL_MEMCPY_INNER_DEVICE_TO_DEVICE, on.stream));
    EXPECT("5 a copy into no room → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemcpy(on.device, 0, on.pinned, 1,
                                                                                      ACL_MEMCPY_HOST_TO_DEVICE));
    EXPECT("5 a copy into too little room → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemcpy(on.device, 16, on.pinned,
                                                                                              17, ACL_MEMCPY_HOST_TO_DEVICE));
    EXPECT("5 an asynchronous copy into no room → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtMemcpyAsync(on.device, 0, on.pinned, 1, ACL_MEMCPY_HOST_TO_DEVICE, on.stream));
    EXPECT("5 an asynchronous copy into too little room → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtMemcpyAsync(on.device, 16, on.pinned, 17, ACL_MEMCPY_HOST_TO_DEVICE, on.stream));
    EXPECT("5 a copy onto itself → 0", 0, aclrtMemcpy(on.device, COPY_BYTES, on.device, COPY_BYTES,
                                                      ACL_MEMCPY_DEVICE_TO_DEVICE));
    EXPECT("5 a copy to an address in the window that nobody took → driver error", ACL_ERROR_RT_DRV_INTERNAL_ERROR,
           aclrtMemcpy((void *)(WINDOW_END - GRANULE), COPY_BYTES, on.pinned, COPY_BYTES, ACL_MEMCPY_HOST_TO_DEVICE));
    EXPECT("5 an asynchronous copy between host memory → unsupported", ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
           aclrtMemcpyAsync(on.pinned, COPY_BYTES, on.pinned_too, COPY_BYTES, ACL_MEMCPY_HOST_TO_HOST, on.stream));
    EXPECT("5 an asynchronous copy whose kind contradicts plain host memory → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtMemcpyAsync(on.device, COPY_BYTES, on.pageable, COPY_BYTES, ACL_MEMCPY_DEVICE_TO_HOST, on.stream));
    close_copies();
}

/* The addresses decide the direction: a synchronous copy of any accepted kind moves the bytes. */
static void copy_round_trip(const char *name, uint8_t *source, uint8_t *destination, uint8_t value) {
    char text[128];
    memset(source, value, COPY_BYTES);
    memset(destination, 0, COPY_BYTES);
    snprintf(text, sizeof(text), "5 %s to the device → 0", name);
    EXPECT(text, 0, aclrtMemcpy(on.device, COPY_BYTES, source, COPY_BYTES, ACL_MEMCPY_HOST_TO_DEVICE));
    snprintf(text, sizeof(text), "5 %s on the device → 0", name);
    EXPECT(text, 0, aclrtMemcpy(on.device_too, COPY_BYTES, on.device, COPY_BYTES, ACL_MEMCPY_DEVICE_TO_DEVICE));
    snprintf(text, sizeof(text), "5 %s from the device, with another kind → 0", name);
    EXPECT(text, 0, aclrtMemcpy(destination, COPY_BYTES, on.device_too, COPY_BYTES, ACL_MEMCPY_HOST_TO_DEVICE));
    snprintf(text, sizeof(text), "5 %s keeps its bytes", name);
    check_true(text, all_bytes(destination, COPY_BYTES, value));
}

static void copies_synchronous(void) {
    aclrtStreamStatus status = ACL_STREAM_STATUS_RESERVED;
    uint8_t *pageableToo = malloc(COPY_BYTES);
    open_copies();
    copy_round_trip("page-locked memory", on.pinned, on.pinned_too, 0x11);
    copy_round_trip("pageable memory", on.pageable, pageableToo, 0x22);
    memset(on.pageable, 0x33, COPY_BYTES);
    EXPECT("5 plain host to plain host → 0", 0, aclrtMemcpy(pageableToo, COPY_BYTES, on.pageable, COPY_BYTES,
                                                            ACL_MEMCPY_HOST_TO_HOST));
    check_true("5 plain host to plain host keeps its bytes", all_bytes(pageableToo, COPY_BYTES, 0x33));
    block_stream(on.stream);
    EXPECT("5 a synchronous copy does not wait for a stream → 0", 0,
           aclrtMemcpy(on.device, COPY_BYTES, on.pinned, COPY_BYTES, ACL_MEMCPY_HOST_TO_DEVICE));
    REQUIRE(aclrtStreamQuery(on.stream, &status));
    EXPECT("5 the stream is still busy after it", ACL_STREAM_STATUS_NOT_READY, status);
    open_gate();
    REQUIRE(aclrtSynchronizeStream(on.stream));
    free(pageableToo);
    close_copies();
}

static void copies_asynchronous(void) {
    aclrtStream stale = NULL;
    aclrtContext context = NULL;
    open_copies();
    memset(on.pinned, 0x44, COPY_BYTES);
    memset(on.pinned_too, 0, COPY_BYTES);
    block_stream(on.stream);
    EXPECT("5 an asynchronous copy to the device → 0", 0,
           aclrtMemcpyAsync(on.device, COPY_BYTES, on.pinned, COPY_BYTES, ACL_MEMCPY_HOST_TO_DEVICE, on.stream));
    EXPECT("5 an asynchronous copy on the device → 0", 0,
           aclrtMemcpyAsync(on.device_too, COPY_BYTES, on.device, COPY_BYTES, ACL_MEMCPY_DEVICE_TO_DEVICE, on.stream));
    EXPECT("5 an asynchronous copy from the device → 0", 0,
           aclrtMemcpyAsync(on.pinned_too, COPY_BYTES, on.device_too, COPY_BYTES, ACL_MEMCPY_DEVICE_TO_HOST,
                            on.stream));
    check_true("5 asynchronous copies wait for their stream", all_bytes(on.pinned_too, COPY_BYTES, 0));
    open_gate();
    REQUIRE(aclrtSynchronizeStream(on.stream));
    check_true("5 they run in the stream's order", all_bytes(on.pinned_too, COPY_BYTES, 0x44));
    memset(on.pageable, 0, COPY_BYTES);
    block_stream(on.stream);
    open_gate_after(40);
    EXPECT("5 an asynchronous copy to pageable memory → 0", 0,
           aclrtMemcpyAsync(on.pageable, COPY_BYTES, on.device_too, COPY_BYTES, ACL_MEMCPY_DEVICE_TO_HOST, on.stream));
    check_true("5 it has happened when the call returns", all_bytes(on.pageable, COPY_BYTES, 0x44));
    memset(on.pinned_too, 0, COPY_BYTES);
    EXPECT("5 a wrong kind is corrected from the addresses → 0", 0,
           aclrtMemcpyAsync(on.pinned_too, COPY_BYTES, on.device_too, COPY_BYTES, ACL_MEMCPY_HOST_TO_DEVICE,
                            on.stream));
    REQUIRE(aclrtSynchronizeStream(on.stream));
    check_true("5 the corrected copy moves the bytes", all_bytes(on.pinned_too, COPY_BYTES, 0x44));
    REQUIRE(aclrtCreateStream(&stale));
    REQUIRE(aclrtDestroyStream(stale));
    EXPECT("5 an asynchronous copy on a stale stream → invalid handle", ACL_ERROR_RT_INVALID_HANDLE,
           aclrtMemcpyAsync(on.device, COPY_BYTES, on.pinned, COPY_BYTES, ACL_MEMCPY_HOST_TO_DEVICE, stale));
    REQUIRE(aclrtCreateContext(&context, 0));
    EXPECT("5 an asynchronous copy on another context's stream → other context", ACL_ERROR_RT_STREAM_CONTEXT,
           aclrtMemcpyAsync(on.device, COPY_BYTES, on.pinned, COPY_BYTES, ACL_MEMCPY_HOST_TO_DEVICE, on.stream));
    REQUIRE(aclrtDestroyContext(context));
    REQUIRE(aclrtSetDevice(0));
    close_copies();
}

/* Two copies to the device with one attribute; every case changes one field. */
struct batch {
    void *destinations[2];
    size_t rooms[2];
    void *sources[2];
    size_t sizes[2];
    aclrtMemcpyBatchAttr attributes[2];
    size_t indexes[2];
    size_t count;
    size_t attributeCount;
    size_t failed;
};

static struct batch good_batch(void) {
    static const aclrtMemLocation device = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_DEVICE};
    static const aclrtMemLocation host = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_HOST};
    return (struct batch){
        .destinations = {on.device, on.device_too},
        .rooms = {COPY_BYTES, COPY_BYTES},
        .sources = {on.pinned, on.pinned_too},
        .sizes = {COPY_BYTES, COPY_BYTES / 2},
        .attributes = {{.dstLoc = device, .srcLoc = host}, {.dstLoc = device, .srcLoc = host}},
        .indexes = {0, 1},
        .count = 2,
        .attributeCount = 1,
        .failed = 77,
    };
}

static aclError run_batch(struct batch *batch) {
    return aclrtMemcpyBatch(batch->destinations, batch->rooms, batch->sources, batch->sizes, batch->count,
                            batch->attributes, batch->indexes, batch->attributeCount, &batch->failed);
}

static void batch_arguments(void) {
    struct batch batch = good_batch();
    EXPECT("5.1 a batch without sizes → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyBatch(batch.destinations, batch.rooms, batch.sources, NULL, 2, batch.attributes, batch.indexes, 1,
                            &batch.failed));
    EXPECT("5.1 a batch of none → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyBatch(batch.destinations, batch.rooms, batch.sources, batch.sizes, 0, batch.attributes,
                            batch.indexes, 1, &batch.failed));
    EXPECT("5.1 a batch without destinations → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyBatch(NULL, batch.rooms, batch.sources, batch.sizes, 2, batch.attributes, batch.indexes, 1,
                            &batch.failed));
    EXPECT("5.1 a batch without rooms → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyBatch(batch.destinations, NULL, batch.sources, batch.sizes, 2, batch.attributes, batch.indexes, 1,
                            &batch.failed));
    EXPECT("5.1 a batch without sources → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyBatch(batch.destinations, batch.rooms, NULL, batch.sizes, 2, batch.attributes, batch.indexes, 1,
                            &batch.failed));
    EXPECT("5.1 a batch without attributes → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyBatch(batch.destinations, batch.rooms, batch.sources, batch.sizes, 2, NULL, batch.indexes, 1,
                            &batch.failed));
    EXPECT("5.1 a batch without indexes → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyBatch(batch.destinations, batch.rooms, batch.sources, batch.sizes, 2, batch.attributes, NULL, 1,
                            &batch.failed));
    EXPECT("5.1 a batch without a fail index → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyBatch(batch.destinations, batch.rooms, batch.sources, batch.sizes, 2, batch.attributes,
                            batch.indexes, 1, NULL));
    batch.sizes[0] = batch.sizes[1] = 0;
    EXPECT("5.1 a batch of empty copies, nothing else checked → 0", 0,
           aclrtMemcpyBatch(NULL, NULL, NULL, batch.sizes, 2, NULL, NULL, 0, &batch.failed));
    check_true("5.1 its fail index is the largest number", batch.failed == SIZE_MAX);
    batch = good_batch();
    batch.rooms[1] = batch.sizes[1] - 1;
    EXPECT("5.1 a batch with too little room → invalid", ACL_ERROR_INVALID_PARAM, run_batch(&batch));
    batch = good_batch();
    batch.attributes[0].rsv[15] = 1;
    EXPECT("5.1 a batch with a reserved byte set → invalid", ACL_ERROR_INVALID_PARAM, run_batch(&batch));
}

static void batch_indexes(void) {
    struct batch batch = good_batch();
    batch.attributeCount = 0;
    EXPECT("5.1 a batch with no attribute → invalid", ACL_ERROR_RT_PARAM_INVALID, run_batch(&batch));
    check_true("5.1 it blames no copy", batch.failed == SIZE_MAX);
    batch = good_batch();
    batch.count = 1;
    batch.attributeCount = 2;
    EXPECT("5.1 a batch with more attributes than copies → invalid", ACL_ERROR_INVALID_PARAM, run_batch(&batch));
    batch = good_batch();
    batch.indexes[0] = 1;
    EXPECT("5.1 a batch whose first index is not 0 → invalid", ACL_ERROR_RT_PARAM_INVALID, run_batch(&batch));
    batch = good_batch();
    batch.attributeCount = 2;
    batch.indexes[1] = 0;
    EXPECT("5.1 a batch whose indexes do not rise → invalid", ACL_ERROR_RT_PARAM_INVALID, run_batch(&batch));
    batch = good_batch();
    batch.attributeCount = 2;
    batch.indexes[1] = 2;
    EXPECT("5.1 a batch with an index beyond the copies → invalid", ACL_ERROR_RT_PARAM_INVALID, run_batch(&batch));
}

static void batch_locations(void) {
    struct batch batch = good_batch();
    batch.attributes[0].srcLoc.type = ACL_MEM_LOCATION_TYPE_DEVICE;
    EXPECT("5.1 a batch whose attribute says device for host memory → invalid", ACL_ERROR_RT_PARAM_INVALID,
           run_batch(&batch));
    EXPECT("5.1 it blames the first copy", 0, batch.failed);
    batch = good_batch();
    batch.sources[1] = on.device;
    EXPECT("5.1 a batch whose second copy is from the device → invalid", ACL_ERROR_RT_PARAM_INVALID, run_batch(&batch));
    EXPECT("5.1 it blames the second copy", 1, batch.failed);
    batch = good_batch();
    batch.attributes[0].dstLoc.id = 1;
    EXPECT("5.1 a batch whose attribute names another device → invalid", ACL_ERROR_RT_PARAM_INVALID, run_batch(&batch));
    batch = good_batch();
    batch.attributes[0].srcLoc = batch.attributes[0].dstLoc;
    batch.sources[0] = on.device_too;
    batch.destinations[0] = on.device;
    batch.sources[1] = on.device_too;
    batch.destinations[1] = on.device;
    EXPECT("5.1 a batch on the device → invalid", ACL_ERROR_RT_PARAM_INVALID, run_batch(&batch));
    EXPECT("5.1 a batch on the device blames the first copy", 0, batch.failed);
}

static void batch_too_long(void) {
    size_t count = MOST_BATCHED + 1;
    void **destinations = calloc(count, sizeof(void *));
    void **sources = calloc(count, sizeof(void *));
    size_t *sizes = calloc(count, sizeof(size_t));
    struct batch batch = good_batch();
    for (size_t index = 0; index < count; index += 1) {
        destinations[index] = on.device;
        sources[index] = on.pinned;
        sizes[index] = 1;
    }
    EXPECT("5.1 a batch of 4097 → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtMemcpyBatch(destinations, sizes, sources, sizes, count, batch.attributes, batch.indexes, 1,
                            &batch.failed));
    EXPECT("5.1 a batch of 4096 → 0", 0,
           aclrtMemcpyBatch(destinations, sizes, sources, sizes, count - 1, batch.attributes, batch.indexes, 1,
                            &batch.failed));
    free(destinations);
    free(sources);
    free(sizes);
}

static void batch_elsewhere(void) {
    struct batch batch = good_batch();
    EXPECT("1.8 aclrtMemcpyBatch needs no context", 0, run_batch(&batch));
}

static void batch_effects(void) {
    struct batch batch = good_batch();
    memset(on.pinned, 0x66, COPY_BYTES);
    memset(on.pinned_too, 0x77, COPY_BYTES);
    EXPECT("5.1 a batch to the device → 0", 0, run_batch(&batch));
    check_true("5.1 a good batch blames no copy", batch.failed == SIZE_MAX);
    memset(on.pinned, 0, COPY_BYTES);
    memset(on.pageable, 0, COPY_BYTES);
    aclrtMemcpyBatchAttr back = {.dstLoc = batch.attributes[0].srcLoc, .srcLoc = batch.attributes[0].dstLoc};
    void *homes[2] = {on.pinned, on.pageable};
    EXPECT("5.1 a batch from the device, pageable memory too → 0", 0,
           aclrtMemcpyBatch(homes, batch.rooms, batch.destinations, batch.sizes, 2, &back, batch.indexes, 1,
                            &batch.failed));
    check_true("5.1 a batch keeps the first copy's bytes", all_bytes(on.pinned, COPY_BYTES, 0x66));
    check_true("5.1 a batch keeps the second copy's bytes", all_bytes(on.pageable, COPY_BYTES / 2, 0x77));
    if (aclrtMemcpyBatchV2 == NULL) return;
    batch = good_batch();
    EXPECT("5.1 the second version of a batch → 0", 0,
           aclrtMemcpyBatchV2(batch.destinations, batch.rooms, batch.sources, batch.sizes, 2, batch.attributes,
                              batch.indexes, 1));
    EXPECT("5.1 the second version without sizes → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemcpyBatchV2(batch.destinations, batch.rooms, batch.sources, NULL, 2, batch.attributes, batch.indexes,
                              1));
}

static void batches(void) {
    open_copies();
    batch_arguments();
    batch_indexes();
    batch_locations();
    batch_too_long();
    on_new_thread(batch_elsewhere);
    batch_effects();
    close_copies();
}

/* A driver may not support the call, which is a valid answer to every check. */
static void batches_asynchronous(void) {
    open_copies();
    struct batch batch = good_batch();
    memset(on.pinned, 0x18, COPY_BYTES);
    aclError code = aclrtMemcpyBatchAsync(batch.destinations, batch.rooms, batch.sources, batch.sizes, 2,
                                          batch.attributes,
                                          batch.indexes, 1, &batch.failed, on.stream);
    check_either("5.1 an asynchronous batch → 0, or unsupported", 0, ACL_ERROR_RT_FEATURE_NOT_SUPPORT, code);
    if (code == ACL_SUCCESS) {
        REQUIRE(aclrtSynchronizeStream(on.stream));
        REQUIRE(aclrtMemcpy(on.pageable, COPY_BYTES, on.device, COPY_BYTES, ACL_MEMCPY_DEVICE_TO_HOST));
        check_true("5.1 an asynchronous batch keeps its bytes", all_bytes(on.pageable, COPY_BYTES, 0x18));
        batch.sizes[0] = 0;
        EXPECT("5.1 an asynchronous batch with one empty copy → invalid", ACL_ERROR_RT_PARAM_INVALID,
               aclrtMemcpyBatchAsync(batch.destinations, batch.rooms, batch.sources, batch.sizes, 2, batch.attributes,
                                     batch.indexes, 1, &batch.failed, on.stream));
        EXPECT("5.1 an asynchronous batch without a fail index → invalid", ACL_ERROR_INVALID_PARAM,
               aclrtMemcpyBatchAsync(batch.destinations, batch.rooms, batch.sources, batch.sizes, 2, batch.attributes,
                                     batch.indexes, 1, NULL, on.stream));
    }
    close_copies();
}

const struct group copy_groups[] = {
    {"copy rules", copy_rules},
    {"copies synchronous", copies_synchronous},
    {"copies asynchronous", copies_asynchronous},
    {"batches", batches},
    {"batches asynchronous", batches_asynchronous},
    {0},
};
