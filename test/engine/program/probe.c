/* A program that makes the AscendCL calls it is ordered to make, one a line of standard input, and answers each with the code and what
 * the call returned: "0 …" or "107000". Pointers, handles and contexts are stored under names of one letter. */
#include "engine.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    int attr;
    uint64_t value __attribute__((packed, aligned(4)));
} mallocAttribute;
typedef struct {
    mallocAttribute *attrs;
    size_t numAttrs;
} mallocConfig;
extern aclError aclrtMallocWithCfg(void **devPtr, size_t size, aclrtMemMallocPolicy policy, mallocConfig *cfg)
    __attribute__((weak));

extern aclError aclrtFreeWithDevSync(void *devPtr);
extern int camem_emulator_set_faults(const char *faults) __attribute__((weak));
extern int camem_emulator_accounting(uint64_t *counts) __attribute__((weak));
extern int aclopExecuteV2(const char *opType, int numInputs, void *inputDesc[], void *inputs[], int numOutputs,
                          void *outputDesc[], void *outputs[], void *attr, aclrtStream stream);
extern int aclrtRandomNumAsync(const void *taskInfo, const aclrtStream stream, void *reserve);
extern int aclnnAdd(void *workspace, uint64_t workspaceSize, void *executor, aclrtStream stream);

static char *named[256];
static _Thread_local char shown[256];

struct words {
    char name, other;
    long long first, second, third;
};

typedef aclError (*action)(struct words *words);

static void show(const char *format, long long first, long long second) {
    snprintf(shown, sizeof shown, format, first, second);
}

#define NAMED (named[(unsigned char)words->name])
#define OTHER (named[(unsigned char)words->other])

static aclrtPhysicalMemProp prop_on(long long device) {
    aclrtPhysicalMemProp prop = {0};
    prop.memAttr = ACL_HBM_MEM_HUGE;
    prop.location.type = ACL_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = (uint32_t)device;
    return prop;
}

static aclError do_init(struct words *words) { (void)words; return aclInit(NULL); }
static aclError do_finalize(struct words *words) { (void)words; return aclFinalize(); }
static aclError do_finalize_reference(struct words *words) {
    uint64_t count = 99;
    (void)words;
    aclError code = aclFinalizeReference(&count);
    show("%lld", (long long)count, 0);
    return code;
}
static aclError do_set(struct words *words) { return aclrtSetDevice((int32_t)words->first); }
static aclError do_reset(struct words *words) { return aclrtResetDevice((int32_t)words->first); }
static aclError do_reset_force(struct words *words) { return aclrtResetDeviceForce((int32_t)words->first); }
static aclError do_device(struct words *words) {
    int32_t device = -1;
    (void)words;
    aclError code = aclrtGetDevice(&device);
    show("%lld", device, 0);
    return code;
}
static aclError do_context(struct words *words) { return aclrtCreateContext((aclrtContext *)&NAMED, (int32_t)words->first); }
static aclError do_destroy_context(struct words *words) { return aclrtDestroyContext(NAMED); }
static aclError do_current(struct words *words) { return aclrtGetCurrentContext((aclrtContext *)&NAMED); }
static aclError do_same(struct words *words) { return NAMED == OTHER ? 0 : -1; }
static aclError do_malloc(struct words *words) {
    return aclrtMalloc((void **)&NAMED, (size_t)words->first, (aclrtMemMallocPolicy)words->second);
}
static aclError do_align32(struct words *words) {
    return aclrtMallocAlign32((void **)&NAMED, (size_t)words->first, (aclrtMemMallocPolicy)words->second);
}
static aclError do_cached(struct words *words) {
    return aclrtMallocCached((void **)&NAMED, (size_t)words->first, (aclrtMemMallocPolicy)words->second);
}
static aclError do_configured(struct words *words) {
    mallocConfig config = {NULL, 0};
    return aclrtMallocWithCfg((void **)&NAMED, (size_t)words->first, (aclrtMemMallocPolicy)words->second, &config);
}
static aclError do_free(struct words *words) { return aclrtFree(NAMED); }
static aclError do_fill(struct words *words) {
    return aclrtMemset(NAMED + words->third, (size_t)words->first, (int)words->second, (size_t)words->first);
}
/* write name offset value */
static aclError do_write(struct words *words) {
    unsigned char byte = (unsigned char)words->second;
    return aclrtMemcpy(NAMED + words->first, 1, &byte, 1, ACL_MEMCPY_HOST_TO_DEVICE);
}
static aclError do_read(struct words *words) {
    unsigned char byte = 0;
    aclError code = aclrtMemcpy(&byte, 1, NAMED + words->first, 1, ACL_MEMCPY_DEVICE_TO_HOST);
    show("%lld", byte, 0);
    return code;
}
static aclError do_reserve(struct words *words) { return aclrtReserveMemAddress((void **)&NAMED, (size_t)words->first, 0, NULL, 0); }
static aclError do_release(struct words *words) { return aclrtReleaseMemAddress(NAMED); }
/* physical name size device */
static aclError do_physical(struct words *words) {
    aclrtPhysicalMemProp prop = prop_on(words->second);
    return aclrtMallocPhysical((aclrtDrvMemHandle *)&NAMED, (size_t)words->first, &prop, 0);
}
static aclError do_free_physical(struct words *words) { return aclrtFreePhysical(NAMED); }
/* map address handle offset size */
static aclError do_map(struct words *words) {
    return aclrtMapMem(NAMED + words->first, (size_t)words->second, (size_t)words->third, OTHER, 0);
}
static aclError do_map_no_access(struct words *words) {
    return aclrtMemMapNoAccess(NAMED + words->first, (size_t)words->second, (size_t)words->third, OTHER, 0);
}
static aclError do_unmap(struct words *words) { return aclrtUnmapMem(NAMED + words->first); }
/* access address offset size device */
static aclError do_access(struct words *words) {
    aclrtMemAccessDesc access = {0};
    access.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE;
    access.location.type = ACL_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = (uint32_t)words->third;
    return aclrtMemSetAccess(NAMED + words->first, (size_t)words->second, &access, 1);
}
/* get_access address offset device */
static aclError do_get_access(struct words *words) {
    aclrtMemLocation location = {(uint32_t)words->second, ACL_MEM_LOCATION_TYPE_DEVICE};
    uint64_t flags = 99;
    aclError code = aclrtMemGetAccess(NAMED + words->first, &location, &flags);
    show("%lld", (long long)flags, 0);
    return code;
}
static aclError do_retain(struct words *words) {
    return aclrtMemRetainAllocationHandle(NAMED, (aclrtDrvMemHandle *)&OTHER);
}
static aclError do_properties(struct words *words) {
    aclrtPhysicalMemProp prop = {0};
    aclError code = aclrtMemGetAllocationPropertiesFromHandle(NAMED, &prop);
    show("%lld %lld", prop.memAttr, prop.location.id);
    return code;
}
static aclError do_export(struct words *words) {
    uint64_t shareable = 0;
    return aclrtMemExportToShareableHandle(NAMED, ACL_MEM_HANDLE_TYPE_NONE, (uint64_t)words->first, &shareable);
}
static aclError do_ipc_key(struct words *words) {
    char key[65] = "";
    return aclrtIpcMemGetExportKey(NAMED, (size_t)words->first, key, sizeof key, 1);
}
static aclError do_attributes(struct words *words) {
    aclrtPtrAttributes attributes = {0};
    aclError code = aclrtPointerGetAttributes(NAMED + words->first, &attributes);
    show("%lld %lld", attributes.location.type, attributes.location.id);
    return code;
}
/* The offset of the address in its range, and the size of the range. */
static aclError do_range(struct words *words) {
    void *base = NULL;
    size_t size = 0;
    aclError code = aclrtMemGetAddressRange(NAMED + words->first, &base, &size);
    show("%lld %lld", (long long)(NAMED + words->first - (char *)base), (long long)size);
    return code;
}
static aclError do_free_bytes(struct words *words) {
    size_t free_bytes = 0, total = 0;
    (void)words;
    aclError code = aclrtGetMemInfo(ACL_HBM_MEM, &free_bytes, &total);
    show("%lld", (long long)free_bytes, 0);
    return code;
}
/* Allocates as a program does that looks AscendCL's functions up by itself. */
static aclError do_bypass(struct words *words) {
    void *library = dlopen("libascendcl.so", RTLD_NOW | RTLD_NOLOAD);
    aclError (*allocate)(void **, size_t, int) = (aclError (*)(void **, size_t, int))dlsym(library, "aclrtMalloc");
    return allocate((void **)&NAMED, (size_t)words->first, ACL_MEM_MALLOC_HUGE_FIRST);
}
static aclError do_stream(struct words *words) { return aclrtCreateStream((aclrtStream *)&NAMED); }
static aclError do_capture(struct words *words) { return aclmdlRICaptureBegin(NAMED, (aclmdlRICaptureMode)words->first); }
static aclError do_end_capture(struct words *words) { return aclmdlRICaptureEnd(NAMED, (aclmdlRI *)&OTHER); }
static aclError do_operator(struct words *words) { return aclnnAdd(NAMED, (uint64_t)words->first, NULL, NULL); }
static aclError do_last_parameters(struct words *words) {
    aclrtStream stream = (aclrtStream)(uintptr_t)words->first;
    int execute = aclopExecuteV2("operator", 0, NULL, NULL, 0, NULL, NULL, NULL, stream);
    show("%lld %lld", execute, aclrtRandomNumAsync(NULL, NULL, (void *)stream));
    return ACL_SUCCESS;
}
static aclError do_fill_async(struct words *words) {
    return aclrtMemsetAsync(NAMED, (size_t)words->first, (int)words->second, (size_t)words->first, OTHER);
}
static aclError do_synchronize(struct words *words) { return aclrtSynchronizeStream(NAMED); }
static aclError do_synchronize_device(struct words *words) {
    (void)words;
    return aclrtSynchronizeDevice();
}
static aclError do_wait_value(struct words *words) { return aclrtValueWait(NAMED, (uint64_t)words->first, 1, OTHER); }
static aclError do_write_value(struct words *words) { return aclrtValueWrite(NAMED, (uint64_t)words->first, 0, OTHER); }

/* A thread that allocates and frees, or waits for the device, until it is ordered to end. */
static atomic_int is_busy;
static atomic_llong busy_failures;

static void *keep_busy(void *frees) {
    aclrtSetDevice(0);
    while (is_busy) {
        void *memory = NULL;
        if (aclrtMalloc(&memory, 3 << 20, ACL_MEM_MALLOC_HUGE_FIRST) != ACL_SUCCESS) continue;
        if (frees == NULL && aclrtSynchronizeDevice() != ACL_SUCCESS) busy_failures++;
        if ((frees == NULL ? aclrtFree(memory) : aclrtFreeWithDevSync(memory)) == ACL_SUCCESS) continue;
        busy_failures++;
        aclrtFree(memory);
    }
    return NULL;
}

static aclError do_keep_busy(struct words *words) {
    static pthread_t thread;
    if (is_busy) {
        is_busy = 0;
        pthread_join(thread, NULL);
        show("%lld", busy_failures, 0);
        return ACL_SUCCESS;
    }
    is_busy = 1;
    busy_failures = 0;
    return pthread_create(&thread, NULL, keep_busy, (void *)(uintptr_t)words->first);
}

/* Leaves the process without a free descriptor. */
static aclError do_exhaust(struct words *words) {
    (void)words;
    struct rlimit limit = {64, 64};
    setrlimit(RLIMIT_NOFILE, &limit);
    while (open("/dev/null", O_RDONLY) >= 0) continue;
    return ACL_SUCCESS;
}
static aclError do_reservations(struct words *words) {
    (void)words;
    uint64_t counts[18] = {0};
    camem_emulator_accounting(counts);
    show("%lld", (long long)counts[7], 0);
    return ACL_SUCCESS;
}
static aclError do_thread(struct words *words);

static const struct {
    const char *name;
    action run;
} actions[] = {
    {"init", do_init}, {"finalize", do_finalize}, {"finalize_reference", do_finalize_reference}, {"set", do_set},
    {"reset", do_reset}, {"reset_force", do_reset_force}, {"device", do_device}, {"context", do_context},
    {"destroy_context", do_destroy_context}, {"current", do_current}, {"same", do_same}, {"malloc", do_malloc},
    {"align32", do_align32}, {"cached", do_cached}, {"configured", do_configured}, {"free", do_free}, {"fill", do_fill},
    {"write", do_write}, {"read", do_read}, {"reserve", do_reserve}, {"release", do_release}, {"physical", do_physical},
    {"free_physical", do_free_physical}, {"map", do_map}, {"map_no_access", do_map_no_access}, {"unmap", do_unmap},
    {"access", do_access}, {"get_access", do_get_access}, {"retain", do_retain}, {"properties", do_properties},
    {"export", do_export}, {"ipc_key", do_ipc_key}, {"attributes", do_attributes}, {"range", do_range},
    {"free_bytes", do_free_bytes}, {"operator", do_operator}, {"stream", do_stream}, {"capture", do_capture},
    {"end_capture", do_end_capture}, {"bypass", do_bypass}, {"thread", do_thread},
    {"last_parameters", do_last_parameters}, {"fill_async", do_fill_async}, {"synchronize", do_synchronize},
    {"synchronize_device", do_synchronize_device}, {"wait_value", do_wait_value}, {"write_value", do_write_value},
    {"keep_busy", do_keep_busy}, {"exhaust", do_exhaust}, {"reservations", do_reservations},
};

/* Two letters follow the name of a call, "." where it needs none, then up to three numbers. */
static int obey(const char *line) {
    char name[32] = "";
    struct words words = {0};
    sscanf(line, "%31s %c %c %lld %lld %lld", name, &words.name, &words.other, &words.first, &words.second, &words.third);
    shown[0] = 0;
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(actions[i].name, name) != 0) continue;
        aclError code = actions[i].run(&words);
        printf(shown[0] == 0 ? "ok %d\n" : "ok %d %s\n", code, shown);
        fflush(stdout);
        return 1;
    }
    return 0;
}

/* thread name: the next line runs on a thread of its own; the program goes on. */
static char deferred[512];

static void *run_deferred(void *ignored) {
    (void)ignored;
    aclrtSetDevice(0);
    obey(deferred);
    return NULL;
}

static aclError do_thread(struct words *words) {
    pthread_t thread;
    (void)words;
    if (fgets(deferred, sizeof deferred, stdin) == NULL) return -1;
    return pthread_create(&thread, NULL, run_deferred, NULL);
}

static void run_child(void) {
    char line[512];
    pid_t child = fork();
    if (child == 0) {
        while (fgets(line, sizeof line, stdin) != NULL && strncmp(line, "done", 4) != 0) obey(line);
        fflush(stdout);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("ok %d\n", status);
    fflush(stdout);
}

int main(void) {
    char line[512];
    setvbuf(stdin, NULL, _IONBF, 0); /* a child reads on where its parent stopped */
    printf("ok ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strncmp(line, "quit", 4) == 0) return 0;
        if (strncmp(line, "faults ", 7) == 0) {
            line[strcspn(line, "\n")] = 0;
            printf("ok %d\n", camem_emulator_set_faults(line + 7));
            fflush(stdout);
            continue;
        }
        if (strncmp(line, "fork", 4) == 0)
            run_child();
        else if (!obey(line))
            printf("ok unknown command\n");
        fflush(stdout);
    }
    return 0;
}
