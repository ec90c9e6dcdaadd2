/* Compares a library with AscendCL's ABI with the return codes and effects in the vendor's sources.
 * Usage: conformance [part of a group's name]. Prints one line per check; exits 1 when any failed. */
#define _GNU_SOURCE
#include "conformance.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { GROUP_LIMIT_S = 25, GATE_LIMIT_MS = 15000 };

/* Shared by all processes of the run. */
struct tally {
    atomic_int passed;
    atomic_int failed;
};

static struct tally *tally;
static atomic_bool gate_open;

static void pass(const char *name) {
    atomic_fetch_add(&tally->passed, 1);
    dprintf(STDOUT_FILENO, "ok %s\n", name);
}

static void fail(const char *name, const char *expected, long got) {
    atomic_fetch_add(&tally->failed, 1);
    dprintf(STDOUT_FILENO, "FAIL %s: expected %s, got %ld\n", name, expected, got);
}

void check(const char *name, long expected, long got) {
    char text[32];
    snprintf(text, sizeof(text), "%ld", expected);
    if (got == expected) pass(name);
    else fail(name, text, got);
}

void check_either(const char *name, long first, long second, long got) {
    char text[64];
    snprintf(text, sizeof(text), "%ld or %ld", first, second);
    if (got == first || got == second) pass(name);
    else fail(name, text, got);
}

void check_error(const char *name, long got) {
    if (got != ACL_SUCCESS) pass(name);
    else fail(name, "an error", got);
}

void check_true(const char *name, bool holds) { check(name, 1, holds); }

void require(const char *call, long got) {
    if (got == ACL_SUCCESS) return;
    char name[256];
    snprintf(name, sizeof(name), "(group given up) %s", call);
    fail(name, "0", got);
    _exit(0);
}

static void *run_on_thread(void *run) {
    ((void (*)(void))run)();
    return NULL;
}

void on_new_thread(void (*run)(void)) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_on_thread, (void *)run) != 0) abort();
    pthread_join(thread, NULL);
}

void sleep_ms(long durationMs) {
    nanosleep(&(struct timespec){.tv_sec = durationMs / 1000, .tv_nsec = durationMs % 1000 * 1000000}, NULL);
}

void open_device(void) {
    REQUIRE(aclInit(NULL));
    REQUIRE(aclrtSetDevice(0));
}

void close_device(void) {
    REQUIRE(aclrtResetDeviceForce(0));
    REQUIRE(aclFinalize());
}

uint32_t device_count(void) {
    uint32_t count = 0;
    REQUIRE(aclrtGetDeviceCount(&count));
    return count;
}

static void wait_at_gate(void *unused) {
    (void)unused;
    for (int waitedMs = 0; !atomic_load(&gate_open) && waitedMs < GATE_LIMIT_MS; waitedMs += 1) sleep_ms(1);
}

void block_stream(aclrtStream stream) {
    atomic_store(&gate_open, false);
    REQUIRE(aclrtLaunchHostFunc(stream, wait_at_gate, NULL));
}

void open_gate(void) { atomic_store(&gate_open, true); }

static void *open_gate_later(void *delayMs) {
    sleep_ms((long)(intptr_t)delayMs);
    open_gate();
    return NULL;
}

void open_gate_after(long delayMs) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, open_gate_later, (void *)(intptr_t)delayMs) != 0) abort();
    pthread_detach(thread);
}

struct peer start_peer(void (*run)(int channel)) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) abort();
    int pid = fork();
    if (pid < 0) abort();
    if (pid == 0) {
        alarm(GROUP_LIMIT_S);
        close(ends[0]);
        run(ends[1]);
        _exit(0);
    }
    close(ends[1]);
    return (struct peer){.pid = pid, .channel = ends[0]};
}

bool all_bytes(const uint8_t *bytes, size_t sizeBytes, uint8_t value) {
    for (size_t index = 0; index < sizeBytes; index += 1) {
        if (bytes[index] != value) return false;
    }
    return true;
}

static void report_death(const char *name, int status) {
    char text[160];
    if (WIFSIGNALED(status)) {
        int number = WTERMSIG(status);
        snprintf(text, sizeof(text), "(group %s) runs to its end%s", name, number == SIGALRM ? " in time" : "");
        fail(text, "no signal", number);
    } else if (WEXITSTATUS(status) != 0) {
        snprintf(text, sizeof(text), "(group %s) runs to its end", name);
        fail(text, "exit status 0", WEXITSTATUS(status));
    }
}

void finish_peer(struct peer peer) {
    int status = 0;
    close(peer.channel);
    waitpid(peer.pid, &status, 0);
    report_death("peer process", status);
}

void channel_send(int channel, const void *bytes, size_t sizeBytes) {
    if (send(channel, bytes, sizeBytes, MSG_NOSIGNAL) != (ssize_t)sizeBytes) require("channel_send", -1);
}

void channel_receive(int channel, void *bytes, size_t sizeBytes) {
    if (recv(channel, bytes, sizeBytes, MSG_WAITALL) != (ssize_t)sizeBytes) require("channel_receive", -1);
}

static void run_group(const struct group *group) {
    int status = 0;
    int pid = fork();
    if (pid < 0) abort();
    if (pid == 0) {
        alarm(GROUP_LIMIT_S);
        group->run();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    report_death(group->name, status);
}

/* Calls that every release has. Others may be missing, and the shim works without them. */
static const char *const required_exports[] = {
    "aclInit", "aclFinalize", "aclFinalizeReference", "aclrtGetVersion", "aclsysGetVersionStr", "aclsysGetVersionNum",
    "aclrtGetSocName", "aclGetRecentErrMsg", "aclrtPeekAtLastError", "aclrtGetLastError", "aclrtGetRunMode",
    "aclrtGetDeviceCount", "aclrtSetDevice", "aclrtGetDevice", "aclrtResetDevice", "aclrtResetDeviceForce",
    "aclrtSynchronizeDevice", "aclrtSynchronizeDeviceWithTimeout", "aclrtDeviceCanAccessPeer",
    "aclrtDeviceEnablePeerAccess", "aclrtDeviceGetBareTgid", "aclrtCreateContext", "aclrtDestroyContext",
    "aclrtSetCurrentContext", "aclrtGetCurrentContext", "aclrtCreateStream", "aclrtCreateStreamWithConfig",
    "aclrtDestroyStream", "aclrtDestroyStreamForce", "aclrtSynchronizeStream", "aclrtSynchronizeStreamWithTimeout",
    "aclrtStreamQuery", "aclrtLaunchHostFunc", "aclrtLaunchCallback", "aclrtValueWait", "aclrtValueWrite",
    "aclrtCreateEvent", "aclrtCreateEventWithFlag", "aclrtCreateEventExWithFlag", "aclrtDestroyEvent",
    "aclrtRecordEvent", "aclrtStreamWaitEvent", "aclrtSynchronizeEvent", "aclrtSynchronizeEventWithTimeout",
    "aclrtQueryEventStatus", "aclrtQueryEvent", "aclrtEventElapsedTime", "aclrtMalloc", "aclrtMallocAlign32",
    "aclrtMallocCached", "aclrtFree", "aclrtMallocHost", "aclrtFreeHost", "aclrtHostRegister", "aclrtHostRegisterV2",
    "aclrtHostUnregister", "aclrtMemset", "aclrtMemsetAsync", "aclrtMemcpy", "aclrtMemcpyAsync", "aclrtMemcpyBatch",
    "aclrtMemcpyBatchAsync", "aclrtGetMemInfo", "aclrtPointerGetAttributes", "aclrtReserveMemAddress",
    "aclrtReleaseMemAddress", "aclrtMallocPhysical", "aclrtFreePhysical", "aclrtMapMem", "aclrtUnmapMem",
    "aclrtMemSetAccess", "aclrtMemGetAccess", "aclrtMemGetAllocationGranularity", "aclrtMemRetainAllocationHandle",
    "aclrtMemGetAllocationPropertiesFromHandle", "aclrtMemExportToShareableHandle",
    "aclrtMemExportToShareableHandleV2", "aclrtMemSetPidToShareableHandle", "aclrtMemSetPidToShareableHandleV2",
    "aclrtMemImportFromShareableHandle", "aclrtMemImportFromShareableHandleV2", "aclrtHostGetDevicePointer",
    "aclrtMemAllocManaged", "aclrtDeviceDisablePeerAccess", "aclrtStreamGetId", "aclrtStreamGetPriority",
    "aclrtStreamGetFlags", "aclrtSetStreamFailureMode", "aclrtCtxGetCurrentDefaultStream", "aclrtAllocatorCreateDesc",
    "aclrtAllocatorDestroyDesc", "aclrtAllocatorSetObjToDesc", "aclrtAllocatorSetAllocFuncToDesc",
    "aclrtAllocatorSetFreeFuncToDesc", "aclrtAllocatorSetAllocAdviseFuncToDesc",
    "aclrtAllocatorSetGetAddrFromBlockFuncToDesc", "aclrtAllocatorRegister", "aclrtAllocatorGetByStream",
    "aclrtAllocatorUnregister", "aclmdlRICaptureBegin", "aclmdlRICaptureEnd", "aclmdlRIExecuteAsync", "aclmdlRIDestroy",
};

static void exports(void) {
    char name[128];
    for (size_t index = 0; index < sizeof(required_exports) / sizeof(*required_exports); index += 1) {
        snprintf(name, sizeof(name), "1 the library exports %s", required_exports[index]);
        check_true(name, dlsym(RTLD_DEFAULT, required_exports[index]) != NULL);
    }
}

static const struct group export_groups[] = {{"exports", exports}, {0}};

int main(int argc, char **argv) {
    const struct group *const tables[] = {
        export_groups, init_groups, device_groups, stream_groups, memory_groups,
        copy_groups, physical_groups, mapping_groups, sharing_groups,
    };
    setvbuf(stdout, NULL, _IONBF, 0);
    tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tally == MAP_FAILED) abort();
    for (size_t table = 0; table < sizeof(tables) / sizeof(*tables); table += 1) {
        for (const struct group *group = tables[table]; group->name != NULL; group += 1) {
            if (argc < 2 || strstr(group->name, argv[1]) != NULL) run_group(group);
        }
    }
    printf("%d passed, %d failed\n", atomic_load(&tally->passed), atomic_load(&tally->failed));
    return atomic_load(&tally->failed) == 0 ? 0 : 1;
}
