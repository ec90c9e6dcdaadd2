/* Checks the strict runtime: it must refuse and count each misuse, and accept each correct call. Prints a line for every
 * deviation and exits with their number. */

#include "strict-runtime/strict.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int wrong;

static uint64_t misuses(void) {
    strict_report_t report;
    strict_report(&report);
    return report.misuses;
}

#define EXPECT(condition)                                                     \
    do {                                                                      \
        if (!(condition)) wrong++, printf("line %d: %s\n", __LINE__, #condition); \
    } while (0)

#define CALL(call, expected, counted)                                                                \
    do {                                                                                             \
        uint64_t before_ = misuses();                                                                \
        aclError code_ = (call);                                                                     \
        if (code_ != (expected) || (misuses() > before_) != (counted)) {                             \
            wrong++;                                                                                 \
            printf("line %d: %s returned %d, misuses %llu\n", __LINE__, #call, code_,                \
                   (unsigned long long)(misuses() - before_));                                       \
        }                                                                                            \
    } while (0)

#define RIGHT(call) CALL(call, ACL_SUCCESS, false)
/* The call must fail with the code and count as misuse. */
#define REFUSED(call, code) CALL(call, code, true)
/* The call must succeed and count as misuse. */
#define FROWNED(call) CALL(call, ACL_SUCCESS, true)

enum { SIZE = 4 << 20 };

static aclrtPhysicalMemProp property(uint32_t device) {
    aclrtPhysicalMemProp prop;
    memset(&prop, 0, sizeof prop);
    prop.memAttr = ACL_HBM_MEM_HUGE;
    prop.location.id = device;
    prop.location.type = ACL_MEM_LOCATION_TYPE_DEVICE;
    return prop;
}

static bool faults_when_read(const void *address) {
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(*(const volatile uint8_t *)address == 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

static void *without_context(void *host) {
    aclrtContext context;
    aclrtStream stream;
    size_t free_bytes, total_bytes;
    void *pointer;
    uint8_t byte = 0;
    CALL(aclrtGetCurrentContext(&context), ACL_ERROR_RT_CONTEXT_NULL, false);
    REFUSED(aclrtCreateStream(&stream), ACL_ERROR_RT_CONTEXT_NULL);
    REFUSED(aclrtDestroyStream(host), ACL_ERROR_RT_CONTEXT_NULL);
    REFUSED(aclrtSynchronizeStream(NULL), ACL_ERROR_RT_CONTEXT_NULL);
    REFUSED(aclrtSynchronizeDevice(), ACL_ERROR_RT_CONTEXT_NULL);
    REFUSED(aclrtSynchronizeDeviceWithTimeout(-1), ACL_ERROR_RT_CONTEXT_NULL);
    REFUSED(aclrtGetMemInfo(ACL_HBM_MEM, &free_bytes, &total_bytes), ACL_ERROR_RT_CONTEXT_NULL);
    REFUSED(aclrtMallocHost(&pointer, 1), ACL_ERROR_RT_CONTEXT_NULL);
    REFUSED(aclrtMemset(host, 1, 0, 1), ACL_ERROR_RT_CONTEXT_NULL);
    REFUSED(aclrtMemcpy(host, 1, &byte, 1, ACL_MEMCPY_DEFAULT), ACL_ERROR_RT_CONTEXT_NULL);
    REFUSED(aclrtMemcpyAsync(host, 1, &byte, 1, ACL_MEMCPY_DEFAULT, NULL), ACL_ERROR_RT_CONTEXT_NULL);
    RIGHT(aclrtReserveMemAddress(&pointer, SIZE, 0, NULL, 0));
    RIGHT(aclrtReleaseMemAddress(pointer));
    return NULL;
}

static void check_before_opening(void) {
    uint32_t count;
    void *address;
    size_t granularity;
    aclrtPhysicalMemProp prop = property(0);
    FROWNED(aclrtGetDeviceCount(&count));
    REFUSED(aclFinalize(), ACL_ERROR_REPEAT_FINALIZE);
    RIGHT(aclInit(NULL));
    CALL(aclInit(""), ACL_ERROR_REPEAT_INITIALIZE, false);
    CALL(aclInit("/proc/self/comm"), ACL_ERROR_INVALID_PARAM, false);
    REFUSED(aclInit("/nowhere"), ACL_ERROR_INVALID_FILE);
    REFUSED(aclrtReserveMemAddress(&address, SIZE, 0, NULL, 0), ACL_ERROR_RT_INVALID_HANDLE);
    REFUSED(aclrtMemGetAllocationGranularity(&prop, ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM, &granularity),
            ACL_ERROR_RT_INVALID_HANDLE);
    REFUSED(aclrtResetDevice(0), ACL_ERROR_RT_CONTEXT_RELEASE_ERROR);
    REFUSED(aclrtSetDevice(2), ACL_ERROR_RT_INVALID_DEVICEID);
}

static void check_physical(void) {
    aclrtDrvMemHandle handle = NULL;
    aclrtPhysicalMemProp prop = property(0);
    REFUSED(aclrtMallocPhysical(&handle, SIZE + 1, &prop, 0), ACL_ERROR_RT_DRV_INTERNAL_ERROR);
    REFUSED(aclrtMallocPhysical(&handle, SIZE, &prop, 1), ACL_ERROR_INVALID_PARAM);
    CALL(aclrtMallocPhysical(&handle, (size_t)16 << 30, &prop, 0), ACL_ERROR_RT_MEMORY_ALLOCATION, false);
    EXPECT(handle != NULL);
    prop.reserve = 1;
    REFUSED(aclrtMallocPhysical(&handle, SIZE, &prop, 0), ACL_ERROR_RT_PARAM_INVALID);
    prop = property(2);
    REFUSED(aclrtMallocPhysical(&handle, SIZE, &prop, 0), ACL_ERROR_RT_INVALID_DEVICEID);
    prop = property(0);
    memset((uint8_t *)&prop + 20, 1, 4);
    FROWNED(aclrtMallocPhysical(&handle, SIZE, &prop, 0));
    EXPECT(faults_when_read(handle));
    RIGHT(aclrtFreePhysical(handle));
    REFUSED(aclrtFreePhysical(handle), ACL_ERROR_RT_PARAM_INVALID);
}

static void check_mapping(void) {
    void *address, *other;
    aclrtDrvMemHandle handle, foreign;
    aclrtPhysicalMemProp prop = property(0), peer = property(1);
    aclrtMemAccessDesc access[2] = {{.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE, .location = prop.location}};
    REFUSED(aclrtReserveMemAddress(&address, SIZE, STRICT_GRANULE, NULL, 0), ACL_ERROR_RT_PARAM_INVALID);
    FROWNED(aclrtReserveMemAddress(&address, 1, 0, NULL, 0));
    RIGHT(aclrtReleaseMemAddress(address));
    RIGHT(aclrtReserveMemAddress(&address, SIZE, 0, NULL, 0));
    RIGHT(aclrtReserveMemAddress(&other, SIZE, 0, NULL, 0));
    RIGHT(aclrtMallocPhysical(&handle, SIZE, &prop, 0));
    RIGHT(aclrtMallocPhysical(&foreign, SIZE, &peer, 0));
    REFUSED(aclrtMapMem(address, SIZE, 1, handle, 0), ACL_ERROR_RT_PARAM_INVALID);
    REFUSED(aclrtMapMem(address, SIZE, 0, handle, 1), ACL_ERROR_INVALID_PARAM);
    REFUSED(aclrtMapMem(address, 2 * SIZE, 0, handle, 0), ACL_ERROR_RT_DRV_INTERNAL_ERROR);
    REFUSED(aclrtMapMem(address, SIZE, 0, address, 0), ACL_ERROR_RT_INVALID_HANDLE);
    RIGHT(aclrtMapMem(address, SIZE, 0, handle, 0));
    EXPECT(faults_when_read(address));
    REFUSED(aclrtMapMem(address, SIZE, 0, handle, 0), ACL_ERROR_RT_DRV_INTERNAL_ERROR);
    RIGHT(aclrtMemSetAccess(address, SIZE, access, 1));
    REFUSED(aclrtMemSetAccess(address, SIZE, access, 2), ACL_ERROR_RT_FEATURE_NOT_SUPPORT);
    REFUSED(aclrtReleaseMemAddress(address), ACL_ERROR_RT_DRV_INTERNAL_ERROR);
    REFUSED(aclrtUnmapMem((uint8_t *)address + STRICT_GRANULE), ACL_ERROR_RT_DRV_INTERNAL_ERROR);
    RIGHT(aclrtUnmapMem(address));
    REFUSED(aclrtUnmapMem(address), ACL_ERROR_RT_DRV_INTERNAL_ERROR);
    REFUSED(aclrtMapMem(address, SIZE, 0, foreign, 0), ACL_ERROR_RT_DRV_INTERNAL_ERROR);
    FROWNED(aclrtMapMem(other, STRICT_GRANULE, 0, handle, 0));
    RIGHT(aclrtFreePhysical(handle));
    RIGHT(aclrtUnmapMem(other));
    RIGHT(aclrtFreePhysical(foreign));
    RIGHT(aclrtReleaseMemAddress(address));
    REFUSED(aclrtReleaseMemAddress(address), ACL_ERROR_RT_PARAM_INVALID);
    RIGHT(aclrtReleaseMemAddress(other));
}

static void check_copies(void) {
    void *device, *host, *freed;
    uint8_t pageable[64] = {0};
    aclrtDrvMemHandle handle;
    aclrtStream stream, destroyed;
    aclrtPhysicalMemProp prop = property(0);
    RIGHT(aclrtReserveMemAddress(&device, SIZE, 0, NULL, 0));
    RIGHT(aclrtMallocPhysical(&handle, SIZE, &prop, 0));
    REFUSED(aclrtMemset(device, SIZE, 0, 1), ACL_ERROR_RT_DRV_INTERNAL_ERROR);
    RIGHT(aclrtMapMem(device, SIZE, 0, handle, 0));
    RIGHT(aclrtMallocHost(&host, SIZE));
    RIGHT(aclrtMallocHost(&freed, SIZE));
    RIGHT(aclrtFreeHost(freed));
    RIGHT(aclrtCreateStream(&stream));
    RIGHT(aclrtCreateStream(&destroyed));
    RIGHT(aclrtDestroyStream(destroyed));
    uint8_t *bytes = host, *target = device;
    EXPECT(bytes[0] != 0 && bytes[SIZE - 1] != 0);
    EXPECT(faults_when_read(freed) && faults_when_read(bytes + SIZE));
    REFUSED(aclrtFreeHost(freed), ACL_ERROR_RT_PARAM_INVALID);

    RIGHT(aclrtMemcpy(pageable, sizeof pageable, target + 77, sizeof pageable, ACL_MEMCPY_DEVICE_TO_HOST));
    EXPECT(pageable[0] != 0 && pageable[63] != 0);
    REFUSED(aclrtMemcpy(device, 1, host, 2, ACL_MEMCPY_HOST_TO_DEVICE), ACL_ERROR_RT_PARAM_INVALID);
    REFUSED(aclrtMemcpy(device, 1, host, 0, ACL_MEMCPY_HOST_TO_DEVICE), ACL_ERROR_RT_PARAM_INVALID);
    REFUSED(aclrtMemcpy(device, 1, host, 1, 6), ACL_ERROR_INVALID_PARAM);
    FROWNED(aclrtMemcpy(device, 1, host, 1, ACL_MEMCPY_DEVICE_TO_HOST));
    REFUSED(aclrtMemcpy(target + SIZE - 1, 2, host, 2, ACL_MEMCPY_HOST_TO_DEVICE), ACL_ERROR_RT_DRV_INTERNAL_ERROR);
    REFUSED(aclrtMemcpy(device, 1, freed, 1, ACL_MEMCPY_HOST_TO_DEVICE), ACL_ERROR_RT_PARAM_INVALID);
    FROWNED(aclrtMemcpyAsync(device, 64, pageable, 64, ACL_MEMCPY_HOST_TO_DEVICE, stream));
    REFUSED(aclrtMemcpyAsync(device, 64, host, 64, ACL_MEMCPY_HOST_TO_DEVICE, destroyed), ACL_ERROR_RT_INVALID_HANDLE);

    /* A queued copy reads and writes only when a caller waits. */
    memset(host, 1, 64);
    RIGHT(aclrtMemcpyAsync(device, 64, host, 64, ACL_MEMCPY_HOST_TO_DEVICE, stream));
    memset(host, 2, 64);
    FROWNED(aclrtMemcpy(pageable, 1, device, 1, ACL_MEMCPY_DEVICE_TO_HOST));
    REFUSED(aclrtUnmapMem(device), ACL_ERROR_RT_DRV_INTERNAL_ERROR);
    REFUSED(aclrtSynchronizeDeviceWithTimeout(0), ACL_ERROR_RT_PARAM_INVALID);
    RIGHT(aclrtSetDevice(1));
    RIGHT(aclrtSynchronizeDevice());
    FROWNED(aclrtMemset(device, 1, 0, 1));
    REFUSED(aclrtMemcpyAsync(device, 64, host, 64, ACL_MEMCPY_HOST_TO_DEVICE, stream), ACL_ERROR_RT_STREAM_CONTEXT);
    RIGHT(aclrtResetDevice(1));
    RIGHT(aclrtSetDevice(0));
    RIGHT(aclrtSynchronizeDeviceWithTimeout(50));
    RIGHT(aclrtMemcpy(pageable, 64, device, 64, ACL_MEMCPY_DEVICE_TO_HOST));
    EXPECT(pageable[0] == 2 && pageable[63] == 2);

    RIGHT(aclrtMemcpyAsync(host, 64, device, 64, ACL_MEMCPY_DEVICE_TO_HOST, stream));
    FROWNED(aclrtFreeHost(host));
    CALL(aclrtSynchronizeStream(stream), STRICT_ERROR_DMA, false);
    RIGHT(aclrtMallocHost(&host, SIZE));
    RIGHT(aclrtMemcpyAsync(host, 64, device, 64, ACL_MEMCPY_DEVICE_TO_HOST, stream));
    FROWNED(aclrtDestroyStream(stream));

    EXPECT(strict_set_faults("nonsense") == -1);
    EXPECT(strict_set_faults("aclrtUnmapMem:1=507899,*:2=507010") == 0);
    CALL(aclrtUnmapMem(device), ACL_ERROR_RT_DRV_INTERNAL_ERROR, false);
    CALL(aclrtFreeHost(host), ACL_ERROR_RT_LOST_HEARTBEAT, false);
    EXPECT(strict_set_faults("") == 0);
    RIGHT(aclrtFreeHost(host));
    FROWNED(aclrtResetDevice(0) || aclrtResetDevice(0));
}

/* Without an open device, and with the thread's context destroyed. */
static void check_options(void) {
    aclrtContext context = NULL;
    void *first, *second;
    CALL(aclrtGetCurrentContext(&context), ACL_ERROR_RT_CONTEXT_NULL, false);
    setenv("STRICT_STALE_CONTEXT", "107000", 1);
    CALL(aclrtGetCurrentContext(&context), ACL_ERROR_RT_PARAM_INVALID, false);
    setenv("STRICT_STALE_CONTEXT", "keep", 1);
    RIGHT(aclrtGetCurrentContext(&context));
    REFUSED(aclrtSetCurrentContext(context), ACL_ERROR_RT_PARAM_INVALID);
    REFUSED(aclrtSynchronizeDevice(), ACL_ERROR_RT_CONTEXT_NULL);

    RIGHT(aclrtSetDevice(1));
    RIGHT(aclrtReserveMemAddress(&first, SIZE, 0, NULL, 0));
    RIGHT(aclrtReleaseMemAddress(first));
    RIGHT(aclrtReserveMemAddress(&second, SIZE, 0, NULL, 0));
    EXPECT(second != first);
    RIGHT(aclrtReleaseMemAddress(second));
    setenv("STRICT_REUSE_ADDRESSES", "1", 1);
    RIGHT(aclrtReserveMemAddress(&first, SIZE / 2, 0, NULL, 0));
    EXPECT(first == second && faults_when_read(first));
    RIGHT(aclrtReleaseMemAddress(first));
    REFUSED(aclrtReleaseMemAddress(first), ACL_ERROR_RT_PARAM_INVALID);
    RIGHT(aclrtResetDevice(1));
}

int main(void) {
    check_before_opening();
    RIGHT(aclrtSetDevice(0));
    pthread_t thread;
    if (pthread_create(&thread, NULL, without_context, &wrong) == 0) pthread_join(thread, NULL);
    check_physical();
    check_mapping();
    check_copies();
    check_options();
    RIGHT(aclFinalizeReference(NULL));
    FROWNED(aclFinalizeReference(NULL));
    EXPECT(strlen(strict_misuse_text()) > 0);
    return wrong;
}
