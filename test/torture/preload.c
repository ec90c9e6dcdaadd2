/* Loaded with LD_PRELOAD into the process under torture.
 *
 * Fault model: an allocation (malloc, calloc, realloc, aligned_alloc, posix_memalign) or a pthread_create that libcamem.so makes
 * fails at the nth call, or at the nth and every later one. Only calls of libcamem.so fail: their entries in its global offset
 * table are replaced when it is opened, so Bun and the emulated device are never hit.
 *
 * It also opens another build of libcamem.so where CAMEM_TORTURE_SHIM names one, and runs native threads that allocate and free
 * without pause, as an engine's threads do. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { allocations, threads, target_count };
enum { max_threads = 8, slots = 4, largest_bytes = 3 << 20, device_count = 2 };

struct fault {
    atomic_ullong calls;
    atomic_ullong first;
    atomic_bool onward;
};

static struct fault faults[target_count];

static bool fails(int target)
{
    struct fault *fault = &faults[target];
    unsigned long long call = atomic_fetch_add(&fault->calls, 1) + 1;
    unsigned long long first = atomic_load(&fault->first);
    return first != 0 && (call == first || (atomic_load(&fault->onward) && call > first));
}

/* Makes the nth call of `target` fail, and with `onward` every later one; none with 0. The count of calls starts anew. */
void torture_set_fault(int target, unsigned long long nth, int onward)
{
    atomic_store(&faults[target].first, 0);
    atomic_store(&faults[target].calls, 0);
    atomic_store(&faults[target].onward, onward != 0);
    atomic_store(&faults[target].first, nth);
}

unsigned long long torture_calls(int target) { return atomic_load(&faults[target].calls); }

static void *failing_malloc(size_t size)
{
    if (!fails(allocations))
        return malloc(size);
    errno = ENOMEM;
    return NULL;
}

static void *failing_calloc(size_t count, size_t size)
{
    if (!fails(allocations))
        return calloc(count, size);
    errno = ENOMEM;
    return NULL;
}

static void *failing_realloc(void *pointer, size_t size)
{
    if (!fails(allocations))
        return realloc(pointer, size);
    errno = ENOMEM;
    return NULL;
}

static void *failing_aligned_alloc(size_t alignment, size_t size)
{
    if (!fails(allocations))
        return aligned_alloc(alignment, size);
    errno = ENOMEM;
    return NULL;
}

static int failing_posix_memalign(void **pointer, size_t alignment, size_t size)
{
    return fails(allocations) ? ENOMEM : posix_memalign(pointer, alignment, size);
}

static int failing_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument)
{
    return fails(threads) ? EAGAIN : pthread_create(thread, attributes, body, argument);
}

static const struct {
    const char *name;
    void *replacement;
} replacements[] = {
    {"malloc", (void *)failing_malloc},
    {"calloc", (void *)failing_calloc},
    {"realloc", (void *)failing_realloc},
    {"aligned_alloc", (void *)failing_aligned_alloc},
    {"posix_memalign", (void *)failing_posix_memalign},
    {"pthread_create", (void *)failing_pthread_create},
};

static void replace(void **entry, void *replacement)
{
    uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    void *page = (void *)((uintptr_t)entry & ~(page_bytes - 1));
    if (mprotect(page, page_bytes, PROT_READ | PROT_WRITE) == 0)
        *entry = replacement;
}

static int replace_relocations(const struct link_map *map, const ElfW(Rela) *relocations, size_t size_bytes,
                               const ElfW(Sym) *symbols, const char *strings)
{
    int replaced = 0;
    for (size_t index = 0; index < size_bytes / sizeof *relocations; index++) {
        const char *name = strings + symbols[ELF64_R_SYM(relocations[index].r_info)].st_name;
        for (size_t each = 0; each < sizeof replacements / sizeof *replacements; each++) {
            if (strcmp(name, replacements[each].name) != 0)
                continue;
            replace((void **)(map->l_addr + relocations[index].r_offset), replacements[each].replacement);
            replaced++;
        }
    }
    return replaced;
}

static int replaced_entries;
static void *(*my_malloc)(ptrdiff_t, int, void *);
static void (*my_free)(void *, ptrdiff_t, int, void *);

static void take_over(void *library)
{
    const ElfW(Rela) *lazy = NULL, *eager = NULL;
    const ElfW(Sym) *symbols = NULL;
    const char *strings = NULL;
    size_t lazy_bytes = 0, eager_bytes = 0;
    struct link_map *map;
    if (replaced_entries > 0 || dlinfo(library, RTLD_DI_LINKMAP, &map) != 0)
        return;
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
        switch (entry->d_tag) {
        case DT_JMPREL: lazy = (const void *)entry->d_un.d_ptr; break;
        case DT_PLTRELSZ: lazy_bytes = entry->d_un.d_val; break;
        case DT_RELA: eager = (const void *)entry->d_un.d_ptr; break;
        case DT_RELASZ: eager_bytes = entry->d_un.d_val; break;
        case DT_SYMTAB: symbols = (const void *)entry->d_un.d_ptr; break;
        case DT_STRTAB: strings = (const void *)entry->d_un.d_ptr; break;
        }
    }
    replaced_entries = replace_relocations(map, lazy, lazy_bytes, symbols, strings) +
                       replace_relocations(map, eager, eager_bytes, symbols, strings);
    my_malloc = (void *(*)(ptrdiff_t, int, void *))dlsym(library, "my_malloc");
    my_free = (void (*)(void *, ptrdiff_t, int, void *))dlsym(library, "my_free");
}

/* How many entries of libcamem.so's table were replaced: 0 means that no fault will ever come. */
int torture_replaced_entries(void) { return replaced_entries; }

static bool is_shim(const char *path)
{
    const char *name = path == NULL ? NULL : strrchr(path, '/');
    return name != NULL && strcmp(name, "/libcamem.so") == 0;
}

void *dlopen(const char *path, int flags)
{
    void *(*next)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    const char *instead = getenv("CAMEM_TORTURE_SHIM");
    if (!is_shim(path))
        return next(path, flags);
    void *library = next(instead != NULL && *instead != '\0' ? instead : path, RTLD_NOW);
    if (library != NULL)
        take_over(library);
    return library;
}

struct slot {
    void *pointer;
    ptrdiff_t size_bytes;
    int device;
};

static pthread_t running[max_threads];
static int running_count;
static atomic_bool stopping;

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void *allocate_and_free(void *seed)
{
    uint32_t random = (uint32_t)(uintptr_t)seed;
    struct slot held[slots] = {0};
    const struct timespec pause = {.tv_nsec = 200000};
    while (!atomic_load(&stopping)) {
        struct slot *slot = &held[next_random(&random) % slots];
        if (slot->pointer != NULL)
            my_free(slot->pointer, slot->size_bytes, slot->device, NULL);
        slot->size_bytes = 1 + next_random(&random) % largest_bytes;
        slot->device = (int)(next_random(&random) % device_count);
        slot->pointer = my_malloc(slot->size_bytes, slot->device, NULL);
        nanosleep(&pause, NULL);
    }
    for (int index = 0; index < slots; index++)
        if (held[index].pointer != NULL)
            my_free(held[index].pointer, held[index].size_bytes, held[index].device, NULL);
    return NULL;
}

/* Starts native threads; returns how many run. */
int torture_start_threads(int count, unsigned int seed)
{
    atomic_store(&stopping, false);
    for (running_count = 0; running_count < count && running_count < max_threads; running_count++) {
        void *own_seed = (void *)(uintptr_t)(seed + (unsigned int)running_count);
        if (pthread_create(&running[running_count], NULL, allocate_and_free, own_seed) != 0)
            break;
    }
    return running_count;
}

/* Ends them; each frees what it holds. */
void torture_stop_threads(void)
{
    atomic_store(&stopping, true);
    while (running_count > 0)
        pthread_join(running[--running_count], NULL);
}
