/* An engine that knows nothing of camem: it uses AscendCL in the order in which inference engines for Ascend do. Its kernels are
 * host functions, which the emulator runs in stream order. Every byte that it keeps on a device decides about its text. */
#ifndef CAMEM_TEST_ENGINE_H
#define CAMEM_TEST_ENGINE_H

#include "../../support/acl.h"
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define DEVICES 2
#define SLOTS 8
#define CONSTANTS 24
#define LONGEST_TEXT 4096

typedef void *aclmdlRI;
typedef int aclmdlRICaptureMode;
ACL_FUNCTION aclError aclmdlRICaptureBegin(aclrtStream stream, aclmdlRICaptureMode mode);
ACL_FUNCTION aclError aclmdlRICaptureEnd(aclrtStream stream, aclmdlRI *model);
ACL_FUNCTION aclError aclmdlRIExecuteAsync(aclmdlRI model, aclrtStream stream);
ACL_FUNCTION aclError aclmdlRIDestroy(aclmdlRI model);

/* Sizes in bytes, and how many sequences there are. */
struct sizes {
    size_t weights, cache, compute;
    int slots;
};

struct slot;

/* What a kernel reads and writes on one device. */
struct part {
    struct slot *slot;
    int device;
    aclrtStream stream;
    uint64_t *cache, *compute;
    const uint64_t *scratch;
    size_t scratch_words;
    aclmdlRI graph;
};

/* One sequence. Slots share the weights and constants. */
struct slot {
    struct engine *engine;
    struct part parts[DEVICES];
    uint64_t position;
    uint64_t *token; /* page-locked */
};

/* A pool of physical memory in one reservation, which grows and shrinks. */
struct scratch {
    pthread_mutex_t mutex;
    void *base;
    size_t granularity, mapped, most;
    aclrtDrvMemHandle handles[64];
};

struct engine {
    struct sizes sizes;
    uint64_t *weights[DEVICES];
    uint64_t *constants[DEVICES][CONSTANTS];
    size_t constant_words[CONSTANTS];
    struct slot slots[SLOTS];
    struct scratch scratch;
};

/* What main.c calls, linked or loaded. Results are AscendCL codes; `failed_call` says which call returned it. */
struct backend {
    aclError (*open)(struct engine *engine, const struct sizes *sizes);
    aclError (*generate)(struct engine *engine, int slot, const char *prompt, int tokens, char *text);
    /* Changes one byte of what the engine keeps: "weights", "cache" or "constants". */
    aclError (*poke)(struct engine *engine, const char *what, size_t offset);
    aclError (*close)(struct engine *engine);
    const char *(*failed_call)(void);
};

const struct backend *engine_backend(void);

aclError scratch_open(struct scratch *scratch, int device);
aclError scratch_resize(struct scratch *scratch, int device, size_t size);
aclError scratch_close(struct scratch *scratch);
void run_kernel(void *part);
int serve(const struct backend *backend, struct engine *engine, int port);

extern _Thread_local const char *failed_call;

#define TRY(call)                                   \
    do {                                            \
        aclError code_ = (call);                    \
        if (code_ != 0) {                           \
            failed_call = #call;                    \
            return code_;                           \
        }                                           \
    } while (0)

#endif
