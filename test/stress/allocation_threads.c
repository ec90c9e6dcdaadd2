/* Native threads that allocate, write, verify and free through my_malloc and my_free without pause. */

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { max_threads = 16, slots = 4, probe_bytes = 64, host_to_device = 1, device_to_host = 2 };

typedef void *(*malloc_function)(ptrdiff_t, int, void *);
typedef void (*free_function)(void *, ptrdiff_t, int, void *);
typedef int (*copy_function)(void *, size_t, const void *, size_t, int);
typedef int (*device_function)(int32_t);

static malloc_function my_malloc;
static free_function my_free;
static copy_function copy;
static device_function set_device, reset_device;

static pthread_t threads[max_threads];
static int thread_count;
static int verifies;
static atomic_bool stopping;
static atomic_ullong allocations, nulls, mismatches, failed_copies;

struct slot {
    void *pointer;
    ptrdiff_t size;
    unsigned char expected[probe_bytes];
};

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Writes the last bytes, which detects a wrong size. */
static void fill(struct slot *slot, uint32_t *random)
{
    char *end = (char *)slot->pointer + slot->size - probe_bytes;
    for (int i = 0; i < probe_bytes; i++)
        slot->expected[i] = (unsigned char)next_random(random);
    if (verifies && copy(end, probe_bytes, slot->expected, probe_bytes, host_to_device) != 0)
        atomic_fetch_add(&failed_copies, 1);
}

static void verify(const struct slot *slot)
{
    unsigned char found[probe_bytes] = {0};
    const char *end = (const char *)slot->pointer + slot->size - probe_bytes;
    if (!verifies)
        return;
    if (copy(found, probe_bytes, end, probe_bytes, device_to_host) != 0)
        atomic_fetch_add(&failed_copies, 1);
    else if (memcmp(found, slot->expected, probe_bytes) != 0)
        atomic_fetch_add(&mismatches, 1);
}

static void release(struct slot *slot)
{
    if (slot->pointer == NULL)
        return;
    verify(slot);
    my_free(slot->pointer, slot->size, 0, NULL);
    slot->pointer = NULL;
}

static void *run(void *seed)
{
    uint32_t random = (uint32_t)(uintptr_t)seed;
    struct slot held[slots] = {0};
    if (set_device(0) != 0)
        atomic_fetch_add(&failed_copies, 1);
    while (!atomic_load(&stopping)) {
        struct slot *slot = &held[next_random(&random) % slots];
        release(slot);
        slot->size = probe_bytes + next_random(&random) % (5 << 20);
        slot->pointer = my_malloc(slot->size, 0, NULL);
        if (slot->pointer == NULL) {
            atomic_fetch_add(&nulls, 1);
            continue;
        }
        atomic_fetch_add(&allocations, 1);
        fill(slot, &random);
    }
    for (int i = 0; i < slots; i++)
        release(&held[i]);
    if (reset_device(0) != 0)
        atomic_fetch_add(&failed_copies, 1);
    return NULL;
}

/* Returns 0, or the number of the step that failed. `verify_content` reads every byte back before it is freed. */
int stress_start(const char *shim_path, const char *acl_path, int count, int verify_content)
{
    void *shim = dlopen(shim_path, RTLD_NOW), *acl = dlopen(acl_path, RTLD_NOW);
    if (shim == NULL || acl == NULL || count > max_threads)
        return 1;
    my_malloc = (malloc_function)dlsym(shim, "my_malloc");
    my_free = (free_function)dlsym(shim, "my_free");
    copy = (copy_function)dlsym(acl, "aclrtMemcpy");
    set_device = (device_function)dlsym(acl, "aclrtSetDevice");
    reset_device = (device_function)dlsym(acl, "aclrtResetDevice");
    if (!my_malloc || !my_free || !copy || !set_device || !reset_device)
        return 2;
    verifies = verify_content;
    atomic_store(&stopping, 0);
    atomic_store(&allocations, 0);
    for (thread_count = 0; thread_count < count; thread_count++) {
        void *seed = (void *)(uintptr_t)(thread_count + 1);
        if (pthread_create(&threads[thread_count], NULL, run, seed) != 0)
            return 3;
    }
    return 0;
}

unsigned long long stress_allocations(void) { return atomic_load(&allocations); }

/* Ends the threads; writes allocations, nulls, mismatches and failed copies. */
void stress_stop(unsigned long long totals[4])
{
    atomic_store(&stopping, 1);
    for (int i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    totals[0] = atomic_load(&allocations);
    totals[1] = atomic_load(&nulls);
    totals[2] = atomic_load(&mismatches);
    totals[3] = atomic_load(&failed_copies);
}
