#include "engine.h"
#include <stdlib.h>
#include <string.h>

#define UPLOAD_BYTES ((size_t)256 << 10)
#define CAPTURE_THREAD_LOCAL 1

_Thread_local const char *failed_call;

static const char *last_failed_call(void) { return failed_call; }

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Weights arrive in pieces, from ordinary host memory. */
static aclError load_weights(struct engine *engine, int device) {
    size_t size = engine->sizes.weights;
    uint64_t state = 88172645463325252u + (uint64_t)device;
    static _Thread_local uint64_t piece[UPLOAD_BYTES / 8];
    TRY(aclrtMalloc((void **)&engine->weights[device], size, ACL_MEM_MALLOC_HUGE_FIRST));
    for (size_t done = 0; done < size; done += UPLOAD_BYTES) {
        size_t count = size - done < UPLOAD_BYTES ? size - done : UPLOAD_BYTES;
        for (size_t i = 0; i < UPLOAD_BYTES / 8; i++) piece[i] = next_random(&state);
        TRY(aclrtMemcpy((char *)engine->weights[device] + done, count, piece, count, ACL_MEMCPY_HOST_TO_DEVICE));
    }
    return 0;
}

/* Tiny allocations that hold state, such as tables of a rotary embedding. */
static aclError make_constants(struct engine *engine, int device, aclrtStream stream) {
    uint64_t *host;
    uint64_t state = 1234567 + (uint64_t)device;
    TRY(aclrtMallocHost((void **)&host, 4096));
    for (int i = 0; i < CONSTANTS; i++) {
        size_t words = 8u << (i % 6);
        engine->constant_words[i] = words;
        TRY(aclrtMalloc((void **)&engine->constants[device][i], words * 8, ACL_MEM_MALLOC_HUGE_FIRST));
        for (size_t j = 0; j < words; j++) host[j] = next_random(&state);
        TRY(aclrtMemcpyAsync(engine->constants[device][i], words * 8, host, words * 8, ACL_MEMCPY_HOST_TO_DEVICE, stream));
        TRY(aclrtSynchronizeStream(stream));
    }
    TRY(aclrtFreeHost(host));
    return 0;
}

static aclError capture(struct part *part) {
    TRY(aclmdlRICaptureBegin(part->stream, CAPTURE_THREAD_LOCAL));
    TRY(aclrtLaunchHostFunc(part->stream, run_kernel, part));
    TRY(aclmdlRICaptureEnd(part->stream, &part->graph));
    return 0;
}

static aclError open_slot(struct engine *engine, struct slot *slot, int device) {
    struct part *part = &slot->parts[device];
    slot->engine = engine;
    part->slot = slot;
    part->device = device;
    TRY(aclrtCreateStream(&part->stream));
    TRY(aclrtMalloc((void **)&part->cache, engine->sizes.cache, ACL_MEM_MALLOC_HUGE_FIRST));
    TRY(aclrtMemset(part->cache, engine->sizes.cache, 0, engine->sizes.cache));
    TRY(aclrtMalloc((void **)&part->compute, engine->sizes.compute, ACL_MEM_MALLOC_HUGE_FIRST));
    TRY(aclrtMemset(part->compute, engine->sizes.compute, 0, 16));
    if (device == 0) {
        TRY(aclrtMallocHost((void **)&slot->token, sizeof(uint64_t)));
        TRY(capture(part));
    }
    return 0;
}

static aclError open_engine(struct engine *engine, const struct sizes *sizes) {
    memset(engine, 0, sizeof *engine);
    engine->sizes = *sizes;
    TRY(aclInit(NULL));
    for (int device = 0; device < DEVICES; device++) {
        TRY(aclrtSetDevice(device));
        TRY(load_weights(engine, device));
        for (int i = 0; i < engine->sizes.slots; i++) TRY(open_slot(engine, &engine->slots[i], device));
        TRY(make_constants(engine, device, engine->slots[0].parts[device].stream));
    }
    TRY(aclrtSetDevice(0));
    return scratch_open(&engine->scratch, 0);
}

/* Runs the first device's kernel, whose scratch memory grows with the sequence and shrinks again. */
static aclError run_first(struct slot *slot) {
    struct part *part = &slot->parts[0];
    struct scratch *scratch = &slot->engine->scratch;
    size_t size = (1 + slot->position % 3) * scratch->granularity;
    TRY(scratch_resize(scratch, 0, size));
    TRY(aclrtMemsetAsync(scratch->base, 4096, (int)slot->position & 255, 4096, part->stream));
    TRY(aclrtMemsetAsync((char *)scratch->base + size - 4096, 4096, 7, 4096, part->stream));
    part->scratch = (uint64_t *)((char *)scratch->base + size - 4096);
    part->scratch_words = 512;
    TRY(aclmdlRIExecuteAsync(part->graph, part->stream));
    TRY(aclrtMemcpyAsync(slot->token, 8, part->compute + 1, 8, ACL_MEMCPY_DEVICE_TO_HOST, part->stream));
    TRY(aclrtSynchronizeStream(part->stream));
    return 0;
}

static aclError run_second(struct slot *slot) {
    struct part *part = &slot->parts[1];
    TRY(aclrtMemcpyAsync(part->compute, 8, slot->token, 8, ACL_MEMCPY_HOST_TO_DEVICE, part->stream));
    TRY(aclrtLaunchHostFunc(part->stream, run_kernel, part));
    TRY(aclrtMemcpyAsync(slot->token, 8, part->compute + 1, 8, ACL_MEMCPY_DEVICE_TO_HOST, part->stream));
    TRY(aclrtSynchronizeStream(part->stream));
    return 0;
}

static aclError step(struct slot *slot) {
    struct scratch *scratch = &slot->engine->scratch;
    TRY(aclrtSetDevice(0));
    pthread_mutex_lock(&scratch->mutex);
    aclError code = run_first(slot);
    pthread_mutex_unlock(&scratch->mutex);
    if (code == 0) {
        TRY(aclrtSetDevice(1));
        code = run_second(slot);
        TRY(aclrtResetDevice(1));
    }
    TRY(aclrtResetDevice(0));
    if (code != 0) return code;
    slot->position++;
    return 0;
}

static aclError feed(struct slot *slot, uint64_t token) {
    struct part *part = &slot->parts[0];
    TRY(aclrtSetDevice(0));
    aclError code = aclrtMemcpy(part->compute, 8, &token, 8, ACL_MEMCPY_HOST_TO_DEVICE);
    TRY(aclrtResetDevice(0));
    if (code != 0) failed_call = "aclrtMemcpy";
    return code;
}

static aclError generate(struct engine *engine, int index, const char *prompt, int tokens, char *text) {
    struct slot *slot = &engine->slots[index];
    size_t length = 0;
    uint64_t hash = 0;
    for (const char *c = prompt; *c != 0; c++) hash = hash * 131 + (unsigned char)*c;
    TRY(feed(slot, hash));
    for (int i = 0; i < tokens && length + 2 < LONGEST_TEXT; i++) {
        TRY(step(slot));
        uint64_t token = *slot->token;
        text[length++] = (char)('a' + token % 26);
        TRY(feed(slot, token));
    }
    text[length] = 0;
    return 0;
}

static aclError poke(struct engine *engine, const char *what, size_t offset) {
    unsigned char byte;
    char *target = (char *)engine->weights[0];
    if (strcmp(what, "cache") == 0) target = (char *)engine->slots[0].parts[0].cache;
    if (strcmp(what, "constants") == 0) target = (char *)engine->constants[0][0];
    TRY(aclrtMemcpy(&byte, 1, target + offset, 1, ACL_MEMCPY_DEVICE_TO_HOST));
    byte ^= 1;
    TRY(aclrtMemcpy(target + offset, 1, &byte, 1, ACL_MEMCPY_HOST_TO_DEVICE));
    return 0;
}

static aclError close_slot(struct slot *slot, int device) {
    struct part *part = &slot->parts[device];
    if (part->graph != NULL) TRY(aclmdlRIDestroy(part->graph));
    TRY(aclrtFree(part->cache));
    TRY(aclrtFree(part->compute));
    TRY(aclrtDestroyStream(part->stream));
    return device == 0 ? aclrtFreeHost(slot->token) : 0;
}

static aclError close_engine(struct engine *engine) {
    TRY(aclrtSetDevice(0));
    TRY(scratch_close(&engine->scratch));
    for (int device = 0; device < DEVICES; device++) {
        TRY(aclrtSetDevice(device));
        for (int i = 0; i < engine->sizes.slots; i++) TRY(close_slot(&engine->slots[i], device));
        for (int i = 0; i < CONSTANTS; i++) TRY(aclrtFree(engine->constants[device][i]));
        TRY(aclrtFree(engine->weights[device]));
        TRY(aclrtResetDeviceForce(device));
    }
    TRY(aclFinalize());
    return 0;
}

const struct backend *engine_backend(void) {
    static const struct backend backend = {open_engine, generate, poke, close_engine, last_failed_call};
    return &backend;
}
