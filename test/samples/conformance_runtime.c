/* Sections 1.1 to 1.5 and 1.8: initialisation, errors, devices, contexts, streams, events, and who needs a context. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conformance.h"

enum { FAR_TOO_HIGH_ID = 1 << 20, STREAM_LIMIT = 1984 };

/* Something that is readable and no handle. */
static uint64_t no_handle[512];

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    if (file == NULL || fputs(text, file) < 0 || fclose(file) != 0) require("write_text", -1);
}

static void init_counts(void) {
    uint64_t references = 99;
    EXPECT("1.1 first aclInit → 0", 0, aclInit(NULL));
    EXPECT("1.1 aclInit again → repeat", ACL_ERROR_REPEAT_INITIALIZE, aclInit(NULL));
    EXPECT("1.1 aclInit again with an empty path → repeat", ACL_ERROR_REPEAT_INITIALIZE, aclInit(""));
    EXPECT("1.1 aclFinalizeReference of three → 0", 0, aclFinalizeReference(&references));
    EXPECT("1.1 aclFinalizeReference tells the count left", 2, references);
    EXPECT("1.1 aclFinalizeReference without an out-pointer → 0", 0, aclFinalizeReference(NULL));
    EXPECT("1.1 aclFinalizeReference of the last → 0", 0, aclFinalizeReference(&references));
    EXPECT("1.1 aclFinalizeReference of the last leaves none", 0, references);
    EXPECT("1.1 aclFinalizeReference of none → repeat", ACL_ERROR_REPEAT_FINALIZE, aclFinalizeReference(&references));
    EXPECT("1.1 aclInit after finalizing → 0", 0, aclInit(NULL));
    EXPECT("1.1 aclInit after that → repeat", ACL_ERROR_REPEAT_INITIALIZE, aclInit(NULL));
    EXPECT("1.1 aclFinalize ignores the count → 0", 0, aclFinalize());
    EXPECT("1.1 aclFinalize again → repeat", ACL_ERROR_REPEAT_FINALIZE, aclFinalize());
    EXPECT("1.1 aclInit after aclFinalize → 0", 0, aclInit(NULL));
}

static void finalize_before_init(void) {
    EXPECT("1.1 aclFinalize before any aclInit → 0", 0, aclFinalize());
    EXPECT("1.1 second aclFinalize before any aclInit → repeat", ACL_ERROR_REPEAT_FINALIZE, aclFinalize());
    EXPECT("1.1 aclInit after an early aclFinalize → 0", 0, aclInit(NULL));
}

static void init_path_missing(void) {
    EXPECT("1.1 aclInit of a path that is not there → invalid file", ACL_ERROR_INVALID_FILE,
           aclInit("/nonexistent/camem/acl.json"));
}

static char folder[] = "/tmp/camem-conformance-XXXXXX";

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void make_folder(void) {
    if (mkdtemp(folder) == NULL) require("mkdtemp", -1);
}

static void init_file(void) {
    make_folder();
    write_text(in_folder("acl.json"), "{}\n");
    EXPECT("1.1 aclInit of an empty JSON object → 0", 0, aclInit(in_folder("acl.json")));
    EXPECT("1.1 aclFinalize after it → 0", 0, aclFinalize());
    EXPECT("1.1 aclInit of the same content → 0", 0, aclInit(in_folder("acl.json")));
    unlink(in_folder("acl.json"));
    rmdir(folder);
}

static void init_other_content(void) {
    make_folder();
    write_text(in_folder("acl.json"), "{}\n");
    EXPECT("8 aclInit without a file → 0", 0, aclInit(NULL));
    EXPECT("8 aclFinalize after it → 0", 0, aclFinalize());
    EXPECT("8 aclInit of a file after one without → invalid", ACL_ERROR_INVALID_PARAM, aclInit(in_folder("acl.json")));
    unlink(in_folder("acl.json"));
    rmdir(folder);
}

static void init_malformed(void) {
    make_folder();
    write_text(in_folder("acl.json"), "{ \"dump\": \n");
    check_either("1.1 aclInit of malformed JSON → parse error", ACL_ERROR_FAILURE, ACL_ERROR_INVALID_PARAM,
                 aclInit(in_folder("acl.json")));
    unlink(in_folder("acl.json"));
    rmdir(folder);
}

static void without_init(void) {
    uint32_t count = 0;
    EXPECT("1 aclrtGetDeviceCount without aclInit → 0", 0, aclrtGetDeviceCount(&count));
    EXPECT("1 aclrtSetDevice without aclInit → 0", 0, aclrtSetDevice(0));
}

static void api_version(void) {
    int32_t major = 0, minor = 0, patch = -1;
    EXPECT("1.1 aclrtGetVersion without major → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetVersion(NULL, &minor, &patch));
    EXPECT("1.1 aclrtGetVersion without minor → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetVersion(&major, NULL, &patch));
    EXPECT("1.1 aclrtGetVersion without patch → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetVersion(&major, &minor, NULL));
    EXPECT("1.1 aclrtGetVersion → 0", 0, aclrtGetVersion(&major, &minor, &patch));
    EXPECT("1.1 API major version", 1, major);
    EXPECT("1.1 API minor version", 17, minor);
    EXPECT("1.1 API patch version", 0, patch);
}

static void make_package(const char *package, const char *version) {
    char path[192];
    char line[64];
    snprintf(path, sizeof(path), "share/info/%s", package);
    mkdir(in_folder("share"), 0777);
    mkdir(in_folder("share/info"), 0777);
    mkdir(in_folder(path), 0777);
    snprintf(path, sizeof(path), "share/info/%s/version.info", package);
    snprintf(line, sizeof(line), "Version=%s\n", version);
    write_text(in_folder(path), line);
}

static void package_versions(void) {
    char text[ACL_PKG_VERSION_MAX_SIZE] = "";
    int32_t number = 0;
    char package[] = "camem-test-package";
    char missing[] = "camem-test-missing";
    char malformed[] = "camem-test-malformed";
    make_folder();
    unsetenv("ASCEND_HOME_PATH");
    EXPECT("1.1 aclsysGetVersionStr without a name → invalid", ACL_ERROR_INVALID_PARAM, aclsysGetVersionStr(NULL, text));
    EXPECT("1.1 aclsysGetVersionStr without a buffer → invalid", ACL_ERROR_INVALID_PARAM, aclsysGetVersionStr(package, NULL));
    EXPECT("1.1 aclsysGetVersionNum without a name → invalid", ACL_ERROR_INVALID_PARAM, aclsysGetVersionNum(NULL, &number));
    EXPECT("1.1 aclsysGetVersionNum without a number → invalid", ACL_ERROR_INVALID_PARAM, aclsysGetVersionNum(package, NULL));
    EXPECT("1.1 aclsysGetVersionStr without ASCEND_HOME_PATH → invalid file", ACL_ERROR_INVALID_FILE,
           aclsysGetVersionStr(package, text));
    make_package("camem_test_package", "9.1.2");
    make_package("camem-test-malformed", "nine");
    setenv("ASCEND_HOME_PATH", folder, 1);
    EXPECT("1.1 aclsysGetVersionStr of a missing package → invalid file", ACL_ERROR_INVALID_FILE,
           aclsysGetVersionStr(missing, text));
    EXPECT("1.1 aclsysGetVersionStr finds '-' written as '_' → 0", 0, aclsysGetVersionStr(package, text));
    EXPECT("1.1 aclsysGetVersionStr gives the file's version", 0, strcmp(text, "9.1.2"));
    EXPECT("1.1 aclsysGetVersionNum → 0", 0, aclsysGetVersionNum(package, &number));
    EXPECT("1.1 aclsysGetVersionNum packs the parts", 90102000, number);
    EXPECT("1.1 aclsysGetVersionNum of a bad format → internal", ACL_ERROR_INTERNAL_ERROR,
           aclsysGetVersionNum(malformed, &number));
    for (size_t index = 0; index < 2; index += 1) {
        char path[192];
        snprintf(path, sizeof(path), "share/info/%s/version.info", index == 0 ? "camem_test_package" : malformed);
        unlink(in_folder(path));
        *strrchr(path, '/') = 0;
        rmdir(in_folder(path));
    }
    rmdir(in_folder("share/info"));
    rmdir(in_folder("share"));
    rmdir(folder);
}

static void soc_name_and_run_mode(void) {
    aclrtRunMode mode = ACL_DEVICE;
    EXPECT("1.1 aclrtGetRunMode without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetRunMode(NULL));
    EXPECT("1.1 aclrtGetRunMode without a context → 0", 0, aclrtGetRunMode(&mode));
    EXPECT("1.1 the run mode is the host's", ACL_HOST, mode);
    open_device();
    const char *name = aclrtGetSocName();
    check_true("1.1 aclrtGetSocName names something", name != NULL && name[0] != 0);
    check_true("1.1 aclrtGetSocName returns the same string", aclrtGetSocName() == name);
    close_device();
}

static void last_error_elsewhere(void) {
    EXPECT("1.1 the last error is the thread's own", 0, aclrtPeekAtLastError(ACL_RT_THREAD_LEVEL));
}

static void last_error(void) {
    void *pointer = NULL;
    aclrtMemAccessDesc access = {.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE};
    open_device();
    EXPECT("1.1 aclrtPeekAtLastError of another level → invalid", ACL_ERROR_INVALID_PARAM, aclrtPeekAtLastError((aclrtLastErrLevel)1));
    EXPECT("1.1 aclrtGetLastError of another level → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetLastError((aclrtLastErrLevel)1));
    EXPECT("1.1 no last error at first", 0, aclrtPeekAtLastError(ACL_RT_THREAD_LEVEL));
    EXPECT("8 a call that ACL itself refuses", ACL_ERROR_INVALID_PARAM, aclrtMalloc(&pointer, 0, ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("8 it leaves no last error", 0, aclrtPeekAtLastError(ACL_RT_THREAD_LEVEL));
    EXPECT("1.1 a call that the runtime refuses", ACL_ERROR_RT_PARAM_INVALID, aclrtMemSetAccess(NULL, GRANULE, &access, 1));
    EXPECT("1.1 aclrtPeekAtLastError tells it", ACL_ERROR_RT_PARAM_INVALID, aclrtPeekAtLastError(ACL_RT_THREAD_LEVEL));
    on_new_thread(last_error_elsewhere);
    EXPECT("1.1 aclrtPeekAtLastError keeps it", ACL_ERROR_RT_PARAM_INVALID, aclrtPeekAtLastError(ACL_RT_THREAD_LEVEL));
    EXPECT("1.1 aclrtGetLastError tells it", ACL_ERROR_RT_PARAM_INVALID, aclrtGetLastError(ACL_RT_THREAD_LEVEL));
    EXPECT("1.1 aclrtGetLastError clears it", 0, aclrtGetLastError(ACL_RT_THREAD_LEVEL));
    close_device();
}

static void message_elsewhere(void) {
    check_true("1.1 the recent message is the thread's own", aclGetRecentErrMsg() == NULL);
}

static void recent_message(void) {
    void *pointer = NULL;
    size_t free = 0, total = 0;
    open_device();
    check_true("1.1 no recent message at first", aclGetRecentErrMsg() == NULL);
    REQUIRE(aclrtGetMemInfo(ACL_HBM_MEM, &free, &total));
    EXPECT("3.1 more than the device has → out of memory", ACL_ERROR_RT_MEMORY_ALLOCATION,
           aclrtMalloc(&pointer, total + GIB, ACL_MEM_MALLOC_HUGE_FIRST));
    on_new_thread(message_elsewhere);
    const char *message = aclGetRecentErrMsg();
    check_true("3.1 its message carries EL0004", message != NULL && strstr(message, "EL0004") != NULL);
    check_true("7.2 a second aclGetRecentErrMsg → NULL", aclGetRecentErrMsg() == NULL);
    close_device();
}

static void device_elsewhere(void) {
    int32_t device = -1;
    EXPECT("1.2 aclrtGetDevice on a new thread → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtGetDevice(&device));
    EXPECT("1.2 aclrtSynchronizeDevice on a new thread → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtSynchronizeDevice());
}

static void devices(void) {
    uint32_t count = 0;
    int32_t device = -1;
    aclrtContext context = NULL;
    REQUIRE(aclInit(NULL));
    EXPECT("1.2 aclrtGetDeviceCount without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetDeviceCount(NULL));
    EXPECT("1.2 aclrtGetDeviceCount without a context → 0", 0, aclrtGetDeviceCount(&count));
    check_true("1.2 there is a device", count >= 1);
    EXPECT("1.2 aclrtGetDevice before aclrtSetDevice → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtGetDevice(&device));
    EXPECT("1.2 aclrtSynchronizeDevice before aclrtSetDevice → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtSynchronizeDevice());
    EXPECT("1.2 aclrtSetDevice(-1) → bad device", ACL_ERROR_RT_INVALID_DEVICEID, aclrtSetDevice(-1));
    EXPECT("1.2 aclrtSetDevice(count) → bad device", ACL_ERROR_RT_INVALID_DEVICEID, aclrtSetDevice((int32_t)count));
    EXPECT("1.2 aclrtResetDevice(-1) → bad device", ACL_ERROR_RT_INVALID_DEVICEID, aclrtResetDevice(-1));
    EXPECT("1.2 aclrtResetDevice(count) → bad device", ACL_ERROR_RT_INVALID_DEVICEID, aclrtResetDevice((int32_t)count));
    EXPECT("1.2 aclrtResetDeviceForce(count) → bad device", ACL_ERROR_RT_INVALID_DEVICEID, aclrtResetDeviceForce((int32_t)count));
    EXPECT("1.2 aclrtResetDevice of a device never set → release error", ACL_ERROR_RT_CONTEXT_RELEASE_ERROR, aclrtResetDevice(0));
    EXPECT("1.2 aclrtResetDeviceForce of a device never set → release error", ACL_ERROR_RT_CONTEXT_RELEASE_ERROR, aclrtResetDeviceForce(0));
    EXPECT("1.2 aclrtSetDevice(0) → 0", 0, aclrtSetDevice(0));
    EXPECT("1.2 aclrtGetDevice without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetDevice(NULL));
    EXPECT("1.2 aclrtGetDevice → 0", 0, aclrtGetDevice(&device));
    EXPECT("1.2 aclrtGetDevice tells the device", 0, device);
    on_new_thread(device_elsewhere);
    EXPECT("1.2 aclrtSetDevice again → 0", 0, aclrtSetDevice(0));
    EXPECT("1.2 aclrtResetDevice of two → 0", 0, aclrtResetDevice(0));
    EXPECT("1.2 the context outlives the first of two resets", 0, aclrtGetCurrentContext(&context));
    EXPECT("1.2 aclrtResetDevice of the last → 0", 0, aclrtResetDevice(0));
    EXPECT("1.8 no valid context after the last reset", ACL_ERROR_RT_CONTEXT_NULL, aclrtSynchronizeDevice());
    EXPECT("1.3 aclrtSetCurrentContext of the dead primary context → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtSetCurrentContext(context));
    EXPECT("1.2 aclrtResetDevice past the last → release error", ACL_ERROR_RT_CONTEXT_RELEASE_ERROR, aclrtResetDevice(0));
    for (int round = 0; round < 3; round += 1) REQUIRE(aclrtSetDevice(0));
    EXPECT("1.2 aclrtResetDeviceForce of three → 0", 0, aclrtResetDeviceForce(0));
    EXPECT("1.2 aclrtResetDeviceForce again → release error", ACL_ERROR_RT_CONTEXT_RELEASE_ERROR, aclrtResetDeviceForce(0));
    EXPECT("1.2 aclrtResetDevice after force → release error", ACL_ERROR_RT_CONTEXT_RELEASE_ERROR, aclrtResetDevice(0));
}

static void visible_duplicates(void) {
    uint32_t count = 0;
    setenv("ASCEND_RT_VISIBLE_DEVICES", "0,0", 1);
    EXPECT("1.2 aclrtGetDeviceCount with a device named twice → no device", ACL_ERROR_RT_NO_DEVICE, aclrtGetDeviceCount(&count));
}

static void visible_disorder(void) {
    uint32_t count = 0;
    setenv("ASCEND_RT_VISIBLE_DEVICES", "1,0", 1);
    EXPECT("1.2 aclrtGetDeviceCount with devices out of order → no device", ACL_ERROR_RT_NO_DEVICE, aclrtGetDeviceCount(&count));
}

static void visible_one(void) {
    uint32_t count = 0;
    setenv("ASCEND_RT_VISIBLE_DEVICES", "0", 1);
    EXPECT("6 aclrtGetDeviceCount with one device visible → 0", 0, aclrtGetDeviceCount(&count));
    EXPECT("6 only the visible device counts", 1, count);
}

static void device_waits(void) {
    aclrtStream stream = NULL;
    open_device();
    REQUIRE(aclrtCreateStream(&stream));
    EXPECT("1.2 aclrtSynchronizeDevice → 0", 0, aclrtSynchronizeDevice());
    EXPECT("1.2 aclrtSynchronizeDeviceWithTimeout(-1) → 0", 0, aclrtSynchronizeDeviceWithTimeout(-1));
    EXPECT("1.2 aclrtSynchronizeDeviceWithTimeout(-2) → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtSynchronizeDeviceWithTimeout(-2));
    EXPECT("1.2 aclrtSynchronizeDeviceWithTimeout(0) → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtSynchronizeDeviceWithTimeout(0));
    block_stream(stream);
    EXPECT("1.2 aclrtSynchronizeDeviceWithTimeout that expires → timeout", ACL_ERROR_RT_STREAM_SYNC_TIMEOUT,
           aclrtSynchronizeDeviceWithTimeout(30));
    open_gate_after(30);
    EXPECT("1.2 aclrtSynchronizeDevice with work queued → 0", 0, aclrtSynchronizeDevice());
    aclrtStreamStatus status = ACL_STREAM_STATUS_RESERVED;
    REQUIRE(aclrtStreamQuery(stream, &status));
    EXPECT("1.2 aclrtSynchronizeDevice waited for the work", ACL_STREAM_STATUS_COMPLETE, status);
    REQUIRE(aclrtDestroyStream(stream));
    close_device();
}

static void enable_peer_elsewhere(void) {
    EXPECT("1.2 aclrtDeviceEnablePeerAccess without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtDeviceEnablePeerAccess(1, 0));
}

static void peers_and_pid(void) {
    int32_t can = -1;
    int32_t pid = 0;
    EXPECT("1.2 aclrtDeviceGetBareTgid without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtDeviceGetBareTgid(NULL));
    EXPECT("1.2 aclrtDeviceGetBareTgid without a context → 0", 0, aclrtDeviceGetBareTgid(&pid));
    check_true("1.2 aclrtDeviceGetBareTgid tells a pid", pid > 0);
    open_device();
    EXPECT("1.2 aclrtDeviceCanAccessPeer of a device and itself → invalid", ACL_ERROR_INVALID_PARAM, aclrtDeviceCanAccessPeer(&can, 0, 0));
    EXPECT("1.2 that comes before the out-pointer's check", ACL_ERROR_INVALID_PARAM, aclrtDeviceCanAccessPeer(NULL, 0, 0));
    EXPECT("1.2 aclrtDeviceCanAccessPeer of an id beyond the maximum → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtDeviceCanAccessPeer(&can, FAR_TOO_HIGH_ID, 0));
    EXPECT("1.2 aclrtDeviceEnablePeerAccess with flags → unsupported", ACL_ERROR_FEATURE_UNSUPPORTED, aclrtDeviceEnablePeerAccess(1, 1));
    EXPECT("1.2 aclrtDeviceEnablePeerAccess of the current device → invalid", ACL_ERROR_INVALID_PARAM, aclrtDeviceEnablePeerAccess(0, 0));
    on_new_thread(enable_peer_elsewhere);
    if (device_count() >= 2) {
        EXPECT("1.2 aclrtDeviceCanAccessPeer without an out-pointer → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtDeviceCanAccessPeer(NULL, 0, 1));
        EXPECT("1.2 aclrtDeviceCanAccessPeer of two devices → 0", 0, aclrtDeviceCanAccessPeer(&can, 0, 1));
        if (can == 1) EXPECT("1.2 aclrtDeviceEnablePeerAccess of another device → 0", 0, aclrtDeviceEnablePeerAccess(1, 0));
    }
    close_device();
}

static aclrtContext primary;
static aclrtContext explicit_context;

static void context_elsewhere(void) {
    aclrtContext context = NULL;
    EXPECT("1.3 aclrtGetCurrentContext on a new thread → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtGetCurrentContext(&context));
    EXPECT("1.3 aclrtSetCurrentContext on a new thread → 0", 0, aclrtSetCurrentContext(explicit_context));
    EXPECT("1.3 aclrtGetCurrentContext after aclrtSetCurrentContext → 0", 0, aclrtGetCurrentContext(&context));
    check_true("1.3 it is the one that was set", context == explicit_context);
    EXPECT("1.3 aclrtSetDevice on another thread → 0", 0, aclrtSetDevice(0));
    EXPECT("1.3 aclrtGetCurrentContext after aclrtSetDevice → 0", 0, aclrtGetCurrentContext(&context));
    check_true("1.3 all threads share a device's primary context", context == primary);
    EXPECT("1.3 its reset is counted → 0", 0, aclrtResetDevice(0));
}

static void contexts(void) {
    aclrtContext context = NULL;
    int32_t device = -1;
    open_device();
    EXPECT("1.3 aclrtGetCurrentContext without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetCurrentContext(NULL));
    EXPECT("1.3 aclrtGetCurrentContext → 0", 0, aclrtGetCurrentContext(&primary));
    check_true("1.3 the primary context is no null", primary != NULL);
    EXPECT("1.3 aclrtCreateContext without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtCreateContext(NULL, 0));
    EXPECT("1.3 aclrtCreateContext on a bad device → bad device", ACL_ERROR_RT_INVALID_DEVICEID,
           aclrtCreateContext(&context, (int32_t)device_count()));
    EXPECT("1.3 aclrtCreateContext → 0", 0, aclrtCreateContext(&explicit_context, 0));
    EXPECT("1.3 aclrtGetCurrentContext after aclrtCreateContext → 0", 0, aclrtGetCurrentContext(&context));
    check_true("1.3 a new context is the current one", context == explicit_context && context != primary);
    EXPECT("1.3 aclrtGetDevice in an explicit context → 0", 0, aclrtGetDevice(&device));
    EXPECT("1.3 the device follows the context", 0, device);
    on_new_thread(context_elsewhere);
    EXPECT("1.3 aclrtSetDevice again → 0", 0, aclrtSetDevice(0));
    EXPECT("1.3 aclrtGetCurrentContext after that → 0", 0, aclrtGetCurrentContext(&context));
    check_true("1.2 aclrtSetDevice replaces an explicit context", context == primary);
    EXPECT("1.3 aclrtSetCurrentContext(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtSetCurrentContext(NULL));
    EXPECT("1.3 aclrtDestroyContext(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtDestroyContext(NULL));
    EXPECT("1.3 aclrtDestroyContext of the primary context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtDestroyContext(primary));
    EXPECT("1.3 aclrtDestroyContext → 0", 0, aclrtDestroyContext(explicit_context));
    EXPECT("1.3 aclrtDestroyContext again → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtDestroyContext(explicit_context));
    EXPECT("1.3 aclrtSetCurrentContext of a destroyed one → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtSetCurrentContext(explicit_context));
    if (device_count() >= 2) {
        REQUIRE(aclrtCreateContext(&explicit_context, 1));
        REQUIRE(aclrtSetCurrentContext(primary));
        REQUIRE(aclrtSetCurrentContext(explicit_context));
        REQUIRE(aclrtGetDevice(&device));
        EXPECT("1.3 the device follows the context to another device", 1, device);
        REQUIRE(aclrtSetCurrentContext(primary));
        REQUIRE(aclrtDestroyContext(explicit_context));
    }
    close_device();
}

static aclrtStream shared_stream;
static aclrtEvent shared_event;

static void streams_elsewhere(void) {
    aclrtStream stream = NULL;
    EXPECT("1.4 aclrtCreateStream without a context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtCreateStream(&stream));
    EXPECT("1.4 aclrtDestroyStream without a context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtDestroyStream(shared_stream));
    EXPECT("1.4 aclrtDestroyStreamForce without a context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtDestroyStreamForce(shared_stream));
    EXPECT("1.4 aclrtSynchronizeStream without a context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtSynchronizeStream(shared_stream));
}

static void streams(void) {
    aclrtStream stream = NULL;
    aclrtStreamStatus status = ACL_STREAM_STATUS_RESERVED;
    open_device();
    EXPECT("1.4 aclrtCreateStream without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtCreateStream(NULL));
    EXPECT("1.4 aclrtCreateStream → 0", 0, aclrtCreateStream(&shared_stream));
    EXPECT("1.4 aclrtCreateStreamWithConfig with unknown flags → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtCreateStreamWithConfig(&stream, 0, 0x80000000u));
    EXPECT("1.4 aclrtCreateStreamWithConfig with any priority → 0", 0,
           aclrtCreateStreamWithConfig(&stream, UINT32_MAX, ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC));
    EXPECT("1.4 aclrtDestroyStream(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtDestroyStream(NULL));
    EXPECT("1.4 aclrtDestroyStreamForce(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtDestroyStreamForce(NULL));
    EXPECT("1.4 aclrtSynchronizeStream of the default stream → 0", 0, aclrtSynchronizeStream(NULL));
    EXPECT("1.4 aclrtSynchronizeStream → 0", 0, aclrtSynchronizeStream(stream));
    EXPECT("1.4 aclrtSynchronizeStreamWithTimeout(-2) → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtSynchronizeStreamWithTimeout(stream, -2));
    EXPECT("1.4 aclrtSynchronizeStreamWithTimeout(0) → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtSynchronizeStreamWithTimeout(stream, 0));
    EXPECT("1.4 aclrtSynchronizeStreamWithTimeout(-1) → 0", 0, aclrtSynchronizeStreamWithTimeout(stream, -1));
    EXPECT("1.4 aclrtStreamQuery without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtStreamQuery(stream, NULL));
    EXPECT("1.4 aclrtStreamQuery of an idle stream → 0", 0, aclrtStreamQuery(stream, &status));
    EXPECT("1.4 an idle stream is complete", ACL_STREAM_STATUS_COMPLETE, status);
    block_stream(stream);
    EXPECT("1.4 aclrtStreamQuery of a busy stream → 0", 0, aclrtStreamQuery(stream, &status));
    EXPECT("1.4 a busy stream is not ready", ACL_STREAM_STATUS_NOT_READY, status);
    EXPECT("1.4 aclrtSynchronizeStreamWithTimeout that expires → timeout", ACL_ERROR_RT_STREAM_SYNC_TIMEOUT,
           aclrtSynchronizeStreamWithTimeout(stream, 30));
    open_gate_after(30);
    EXPECT("1.4 aclrtSynchronizeStream waits for the work → 0", 0, aclrtSynchronizeStream(stream));
    REQUIRE(aclrtStreamQuery(stream, &status));
    EXPECT("1.4 then the stream is complete", ACL_STREAM_STATUS_COMPLETE, status);
    on_new_thread(streams_elsewhere);
    EXPECT("1.4 aclrtDestroyStream → 0", 0, aclrtDestroyStream(stream));
    EXPECT("1.4 aclrtDestroyStream of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE, aclrtDestroyStream(stream));
    EXPECT("1.4 aclrtSynchronizeStream of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE, aclrtSynchronizeStream(stream));
    EXPECT("1.4 aclrtStreamQuery of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE, aclrtStreamQuery(stream, &status));
    EXPECT("1.4 aclrtSynchronizeStream of no handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE, aclrtSynchronizeStream(no_handle));
    close_device();
}

static atomic_int host_work_done;

static void slow_host_work(void *unused) {
    (void)unused;
    sleep_ms(60);
    atomic_fetch_add(&host_work_done, 1);
}

static void stream_destruction(void) {
    aclrtStream stream = NULL;
    void *memory = NULL;
    open_device();
    REQUIRE(aclrtCreateStream(&stream));
    REQUIRE(aclrtLaunchHostFunc(stream, slow_host_work, NULL));
    REQUIRE(aclrtLaunchHostFunc(stream, slow_host_work, NULL));
    EXPECT("1.4 aclrtDestroyStream of a busy stream → 0", 0, aclrtDestroyStream(stream));
    EXPECT("1.4 aclrtDestroyStream waited for the queued work", 2, atomic_load(&host_work_done));
    REQUIRE(aclrtMalloc(&memory, GRANULE, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtMemset(memory, GRANULE, 0, GRANULE));
    REQUIRE(aclrtCreateStream(&stream));
    REQUIRE(aclrtValueWait(memory, 1, ACL_STREAM_WAIT_VALUE_EQ, stream));
    EXPECT("1.4 aclrtDestroyStreamForce does not wait → 0", 0, aclrtDestroyStreamForce(stream));
    EXPECT("1.4 aclrtSynchronizeStream after it → invalid handle", ACL_ERROR_RT_INVALID_HANDLE, aclrtSynchronizeStream(stream));
    REQUIRE(aclrtFree(memory));
    close_device();
}

static void streams_of_other_contexts(void) {
    aclrtStream stream = NULL;
    aclrtEvent event = NULL;
    aclrtStreamStatus status = ACL_STREAM_STATUS_RESERVED;
    open_device();
    REQUIRE(aclrtCreateStream(&stream));
    REQUIRE(aclrtCreateContext(&explicit_context, 0));
    REQUIRE(aclrtCreateEvent(&event));
    EXPECT("1.4 aclrtDestroyStream of another context's → other context", ACL_ERROR_RT_STREAM_CONTEXT, aclrtDestroyStream(stream));
    EXPECT("1.4 aclrtDestroyStreamForce of another context's → other context", ACL_ERROR_RT_STREAM_CONTEXT, aclrtDestroyStreamForce(stream));
    EXPECT("1.4 aclrtSynchronizeStream of another context's → 0", 0, aclrtSynchronizeStream(stream));
    EXPECT("1.4 aclrtStreamQuery of another context's → 0", 0, aclrtStreamQuery(stream, &status));
    EXPECT("1.5 aclrtRecordEvent on another context's stream → other context", ACL_ERROR_RT_STREAM_CONTEXT, aclrtRecordEvent(event, stream));
    EXPECT("1.5 aclrtStreamWaitEvent on another context's stream → other context", ACL_ERROR_RT_STREAM_CONTEXT, aclrtStreamWaitEvent(stream, event));
    REQUIRE(aclrtDestroyEvent(event));
    REQUIRE(aclrtDestroyContext(explicit_context));
    REQUIRE(aclrtSetDevice(0));
    REQUIRE(aclrtDestroyStream(stream));
    close_device();
}

static void stream_limit(void) {
    aclrtStream stream = NULL;
    aclError code = ACL_SUCCESS;
    int created = 0;
    open_device();
    while (created <= STREAM_LIMIT && (code = aclrtCreateStream(&stream)) == ACL_SUCCESS) created += 1;
    EXPECT("1.4 aclrtCreateStream past the device's limit → no stream", ACL_ERROR_RT_NO_STREAM_RESOURCE, code);
    close_device();
}

static void events_elsewhere(void) {
    aclrtEvent event = NULL;
    EXPECT("1.5 aclrtCreateEvent without a context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtCreateEvent(&event));
    EXPECT("1.5 aclrtRecordEvent without a context → no context", ACL_ERROR_RT_CONTEXT_NULL, aclrtRecordEvent(shared_event, shared_stream));
    EXPECT("1.5 aclrtStreamWaitEvent without a context → no context", ACL_ERROR_RT_CONTEXT_NULL,
           aclrtStreamWaitEvent(shared_stream, shared_event));
}

static void event_creation(void) {
    aclrtEvent event = NULL;
    static const struct {
        const char *name;
        uint32_t flag;
        aclError expected;
    } cases[] = {
        {"1.5 aclrtCreateEventWithFlag(0) → invalid", 0, ACL_ERROR_RT_PARAM_INVALID},
        {"1.5 aclrtCreateEventWithFlag(0x80) → invalid", 0x80, ACL_ERROR_RT_PARAM_INVALID},
        {"1.5 aclrtCreateEventWithFlag(device-only | sync) → invalid", 0x11, ACL_ERROR_RT_PARAM_INVALID},
        {"1.5 aclrtCreateEventWithFlag(external | sync) → invalid", 0x21, ACL_ERROR_RT_PARAM_INVALID},
        {"1.5 aclrtCreateEventWithFlag(sync) → 0", ACL_EVENT_SYNC, 0},
        {"1.5 aclrtCreateEventWithFlag(time line) → 0", ACL_EVENT_TIME_LINE, 0},
        {"1.5 aclrtCreateEventWithFlag(sync | progress | time line) → 0", 0xB, 0},
    };
    open_device();
    EXPECT("1.5 aclrtCreateEvent without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtCreateEvent(NULL));
    for (size_t index = 0; index < sizeof(cases) / sizeof(*cases); index += 1)
        EXPECT(cases[index].name, cases[index].expected, aclrtCreateEventWithFlag(&event, cases[index].flag));
    EXPECT("1.5 aclrtCreateEventExWithFlag(IPC | sync) → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtCreateEventExWithFlag(&event, 0x41));
    EXPECT("1.5 aclrtCreateEventExWithFlag(sync) → 0", 0, aclrtCreateEventExWithFlag(&event, ACL_EVENT_SYNC));
    close_device();
}

static void event_states(void) {
    aclrtEvent never = NULL, newer = NULL, event = NULL;
    aclrtEventRecordedStatus status = ACL_EVENT_RECORDED_STATUS_COMPLETE;
    aclrtEventStatus older = ACL_EVENT_STATUS_COMPLETE;
    open_device();
    REQUIRE(aclrtCreateStream(&shared_stream));
    REQUIRE(aclrtCreateEvent(&never));
    REQUIRE(aclrtCreateEvent(&event));
    REQUIRE(aclrtCreateEventExWithFlag(&newer, ACL_EVENT_SYNC));
    EXPECT("1.5 aclrtQueryEventStatus(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtQueryEventStatus(NULL, &status));
    EXPECT("1.5 aclrtQueryEventStatus without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtQueryEventStatus(event, NULL));
    EXPECT("1.5 aclrtSynchronizeEvent(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtSynchronizeEvent(NULL));
    EXPECT("1.5 aclrtRecordEvent(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtRecordEvent(NULL, shared_stream));
    EXPECT("1.5 aclrtStreamWaitEvent(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtStreamWaitEvent(shared_stream, NULL));
    EXPECT("1.5 aclrtDestroyEvent(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtDestroyEvent(NULL));
    EXPECT("1.5 aclrtQueryEventStatus of one never recorded → 0", 0, aclrtQueryEventStatus(never, &status));
    EXPECT("1.5 one never recorded is not ready", ACL_EVENT_RECORDED_STATUS_NOT_READY, status);
    EXPECT("1.5 aclrtQueryEventStatus of a newer one never recorded → 0", 0, aclrtQueryEventStatus(newer, &status));
    EXPECT("1.5 a newer one never recorded is complete", ACL_EVENT_RECORDED_STATUS_COMPLETE, status);
    EXPECT("1.5 aclrtSynchronizeEvent of one never recorded → 0", 0, aclrtSynchronizeEvent(never));
    block_stream(shared_stream);
    EXPECT("1.5 aclrtRecordEvent → 0", 0, aclrtRecordEvent(event, shared_stream));
    REQUIRE(aclrtQueryEventStatus(event, &status));
    EXPECT("1.5 a pending event is not ready", ACL_EVENT_RECORDED_STATUS_NOT_READY, status);
    EXPECT("1.5 aclrtQueryEvent of a pending event → 0", 0, aclrtQueryEvent(event, &older));
    EXPECT("8 aclrtQueryEvent says it with the opposite number", ACL_EVENT_STATUS_NOT_READY, older);
    EXPECT("1.5 aclrtSynchronizeEventWithTimeout that expires → timeout", ACL_ERROR_RT_EVENT_SYNC_TIMEOUT,
           aclrtSynchronizeEventWithTimeout(event, 30));
    open_gate_after(30);
    EXPECT("1.5 aclrtSynchronizeEvent waits → 0", 0, aclrtSynchronizeEvent(event));
    REQUIRE(aclrtQueryEventStatus(event, &status));
    EXPECT("1.5 then the event is complete", ACL_EVENT_RECORDED_STATUS_COMPLETE, status);
    shared_event = event;
    on_new_thread(events_elsewhere);
    EXPECT("1.5 aclrtDestroyEvent → 0", 0, aclrtDestroyEvent(event));
    EXPECT("1.5 aclrtDestroyEvent of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE, aclrtDestroyEvent(event));
    EXPECT("1.5 aclrtRecordEvent of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE, aclrtRecordEvent(event, shared_stream));
    EXPECT("1.5 aclrtStreamWaitEvent of a stale handle → invalid handle", ACL_ERROR_RT_INVALID_HANDLE, aclrtStreamWaitEvent(shared_stream, event));
    close_device();
}

static void event_times(void) {
    aclrtEvent start = NULL, end = NULL;
    float elapsedMs = -1;
    open_device();
    REQUIRE(aclrtCreateStream(&shared_stream));
    REQUIRE(aclrtCreateEvent(&start));
    REQUIRE(aclrtCreateEvent(&end));
    EXPECT("1.5 aclrtEventElapsedTime without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM, aclrtEventElapsedTime(NULL, start, end));
    EXPECT("1.5 aclrtEventElapsedTime without a start → invalid", ACL_ERROR_INVALID_PARAM, aclrtEventElapsedTime(&elapsedMs, NULL, end));
    EXPECT("1.5 aclrtEventElapsedTime without an end → invalid", ACL_ERROR_INVALID_PARAM, aclrtEventElapsedTime(&elapsedMs, start, NULL));
    REQUIRE(aclrtRecordEvent(start, shared_stream));
    REQUIRE(aclrtSynchronizeStream(shared_stream));
    EXPECT("1.5 aclrtEventElapsedTime to one never recorded → internal", ACL_ERROR_RT_INTERNAL_ERROR, aclrtEventElapsedTime(&elapsedMs, start, end));
    block_stream(shared_stream);
    REQUIRE(aclrtRecordEvent(end, shared_stream));
    EXPECT("1.5 aclrtEventElapsedTime to a pending one → no timestamp", ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
           aclrtEventElapsedTime(&elapsedMs, start, end));
    sleep_ms(50);
    open_gate();
    REQUIRE(aclrtSynchronizeStream(shared_stream));
    EXPECT("1.5 aclrtEventElapsedTime → 0", 0, aclrtEventElapsedTime(&elapsedMs, start, end));
    check_true("1.5 it is in milliseconds", elapsedMs >= 45 && elapsedMs < 10000);
    close_device();
}

static atomic_int order;

static void note_first(void *unused) {
    (void)unused;
    sleep_ms(40);
    atomic_store(&order, 1);
}

static void note_second(void *seen) { *(int *)seen = atomic_load(&order); }

static void stream_order(void) {
    aclrtStream first = NULL, second = NULL;
    aclrtEvent event = NULL;
    int seen = -1;
    open_device();
    REQUIRE(aclrtCreateStream(&first));
    REQUIRE(aclrtCreateStream(&second));
    REQUIRE(aclrtCreateEvent(&event));
    REQUIRE(aclrtLaunchHostFunc(first, note_first, NULL));
    REQUIRE(aclrtRecordEvent(event, first));
    EXPECT("1.5 aclrtStreamWaitEvent → 0", 0, aclrtStreamWaitEvent(second, event));
    REQUIRE(aclrtLaunchHostFunc(second, note_second, &seen));
    REQUIRE(aclrtSynchronizeStream(second));
    EXPECT("1.5 a stream's later work waits for the event of another", 1, seen);
    close_device();
}

static void value_waits(void) {
    aclrtStream first = NULL, second = NULL;
    void *memory = NULL;
    uint64_t onHost[2] = {0};
    uint64_t read = 0;
    open_device();
    REQUIRE(aclrtCreateStream(&first));
    REQUIRE(aclrtCreateStream(&second));
    REQUIRE(aclrtMalloc(&memory, GRANULE, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtMemset(memory, GRANULE, 0, GRANULE));
    EXPECT("7.1 aclrtValueWait(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtValueWait(NULL, 1, ACL_STREAM_WAIT_VALUE_EQ, first));
    EXPECT("7.1 aclrtValueWrite(NULL) → invalid", ACL_ERROR_INVALID_PARAM, aclrtValueWrite(NULL, 1, 0, first));
    EXPECT("7.1 aclrtValueWait with an unknown flag → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtValueWait(memory, 1, 4, first));
    EXPECT("7.1 aclrtValueWrite with a flag → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtValueWrite(memory, 1, 1, first));
    EXPECT("7.1 aclrtValueWait on host memory → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtValueWait(onHost, 1, ACL_STREAM_WAIT_VALUE_EQ, first));
    EXPECT("7.1 aclrtValueWrite to host memory → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtValueWrite(onHost, 1, 0, first));
    EXPECT("7.1 aclrtValueWait → 0", 0, aclrtValueWait(memory, 7, ACL_STREAM_WAIT_VALUE_EQ, first));
    EXPECT("7.1 it holds its stream up", ACL_ERROR_RT_STREAM_SYNC_TIMEOUT, aclrtSynchronizeStreamWithTimeout(first, 30));
    EXPECT("7.1 aclrtValueWrite → 0", 0, aclrtValueWrite(memory, 7, 0, second));
    EXPECT("7.1 the written value lets it go on", 0, aclrtSynchronizeStreamWithTimeout(first, 10000));
    REQUIRE(aclrtMemcpy(&read, sizeof(read), memory, sizeof(read), ACL_MEMCPY_DEVICE_TO_HOST));
    EXPECT("7.1 the value is in device memory", 7, read);
    close_device();
}

static struct {
    aclrtStream stream;
    aclrtEvent event;
    void *device;
    void *host;
    aclrtDrvMemHandle physical;
} kept;

static void calls_that_need_a_context(void) {
    void *pointer = NULL;
    aclrtStream stream = NULL;
    aclrtEvent event = NULL;
    aclrtContext context = NULL;
    aclrtStreamStatus status;
    aclrtDrvMemHandle handle = NULL;
    aclrtMemFabricHandle fabric = {{0}};
    uint64_t shareable = 1;
    int32_t device = 0;
    size_t free = 0, total = 0;
    const aclrtPhysicalMemProp numa = {.memAttr = ACL_MEM_NORMAL, .location = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_HOST_NUMA}};
    const struct {
        const char *name;
        aclError got;
    } cases[] = {
        {"aclrtCreateStream", aclrtCreateStream(&stream)},
        {"aclrtCreateStreamWithConfig", aclrtCreateStreamWithConfig(&stream, 0, ACL_STREAM_FAST_LAUNCH)},
        {"aclrtDestroyStream", aclrtDestroyStream(kept.stream)},
        {"aclrtSynchronizeStream", aclrtSynchronizeStream(kept.stream)},
        {"aclrtSynchronizeStreamWithTimeout", aclrtSynchronizeStreamWithTimeout(kept.stream, 100)},
        {"aclrtStreamQuery", aclrtStreamQuery(kept.stream, &status)},
        {"aclrtCreateEvent", aclrtCreateEvent(&event)},
        {"aclrtCreateEventWithFlag", aclrtCreateEventWithFlag(&event, ACL_EVENT_SYNC)},
        {"aclrtCreateEventExWithFlag", aclrtCreateEventExWithFlag(&event, ACL_EVENT_SYNC)},
        {"aclrtRecordEvent", aclrtRecordEvent(kept.event, kept.stream)},
        {"aclrtStreamWaitEvent", aclrtStreamWaitEvent(kept.stream, kept.event)},
        {"aclrtSynchronizeDevice", aclrtSynchronizeDevice()},
        {"aclrtSynchronizeDeviceWithTimeout", aclrtSynchronizeDeviceWithTimeout(100)},
        {"aclrtMalloc", aclrtMalloc(&pointer, KIB, ACL_MEM_MALLOC_HUGE_FIRST)},
        {"aclrtMallocAlign32", aclrtMallocAlign32(&pointer, KIB, ACL_MEM_MALLOC_HUGE_FIRST)},
        {"aclrtMallocCached", aclrtMallocCached(&pointer, KIB, ACL_MEM_MALLOC_NORMAL_ONLY)},
        {"aclrtMallocHost", aclrtMallocHost(&pointer, KIB)},
        {"aclrtHostRegister", aclrtHostRegister(kept.host, 4 * KIB, ACL_HOST_REGISTER_MAPPED, &pointer)},
        {"aclrtHostRegisterV2", aclrtHostRegisterV2(kept.host, 4 * KIB, ACL_HOST_REG_MAPPED)},
        {"aclrtHostUnregister", aclrtHostUnregister(kept.host)},
        {"aclrtMemcpy", aclrtMemcpy(kept.device, KIB, kept.host, KIB, ACL_MEMCPY_HOST_TO_DEVICE)},
        {"aclrtMemcpyAsync", aclrtMemcpyAsync(kept.device, KIB, kept.host, KIB, ACL_MEMCPY_HOST_TO_DEVICE, kept.stream)},
        {"aclrtMemset", aclrtMemset(kept.device, KIB, 0, KIB)},
        {"aclrtMemsetAsync", aclrtMemsetAsync(kept.device, KIB, 0, KIB, kept.stream)},
        {"aclrtGetMemInfo", aclrtGetMemInfo(ACL_HBM_MEM, &free, &total)},
        {"aclrtGetDevice", aclrtGetDevice(&device)},
        {"aclrtGetCurrentContext", aclrtGetCurrentContext(&context)},
        {"aclrtMallocPhysical with a NUMA node", aclrtMallocPhysical(&handle, GRANULE, &numa, 0)},
        {"aclrtMemExportToShareableHandleV2 (fabric)",
         aclrtMemExportToShareableHandleV2(kept.physical, 1, ACL_MEM_SHARE_HANDLE_TYPE_FABRIC, &fabric)},
        {"aclrtMemImportFromShareableHandle", aclrtMemImportFromShareableHandle(shareable, 0, &handle)},
        {"aclrtMemImportFromShareableHandleV2",
         aclrtMemImportFromShareableHandleV2(&shareable, ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT, 0, &handle)},
        {"aclrtDeviceEnablePeerAccess", aclrtDeviceEnablePeerAccess(1, 0)},
    };
    char name[128];
    for (size_t index = 0; index < sizeof(cases) / sizeof(*cases); index += 1) {
        snprintf(name, sizeof(name), "1.8 %s needs a context", cases[index].name);
        EXPECT(name, ACL_ERROR_RT_CONTEXT_NULL, cases[index].got);
    }
}

static void calls_that_need_none(void) {
    uint32_t count = 0;
    int32_t number = 0, minor = 0, patch = 0;
    aclrtRunMode mode;
    aclrtPtrAttributes attributes;
    aclrtEventRecordedStatus recorded;
    aclrtPhysicalMemProp prop = {.memAttr = ACL_HBM_MEM_HUGE, .location = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_DEVICE}};
    aclrtMemAccessDesc access = {.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE, .location = prop.location};
    aclrtDrvMemHandle handle = NULL, retained = NULL;
    void *reserved = NULL, *base = NULL;
    size_t size = 0;
    uint64_t flags = 0, shareable = 0;
    int32_t pid = getpid();
    EXPECT("1.8 aclrtGetDeviceCount needs no context", 0, aclrtGetDeviceCount(&count));
    EXPECT("1.8 aclrtGetRunMode needs no context", 0, aclrtGetRunMode(&mode));
    EXPECT("1.8 aclrtGetVersion needs no context", 0, aclrtGetVersion(&number, &minor, &patch));
    EXPECT("1.8 aclrtDeviceGetBareTgid needs no context", 0, aclrtDeviceGetBareTgid(&number));
    EXPECT("1.8 aclrtPointerGetAttributes needs no context", 0, aclrtPointerGetAttributes(kept.device, &attributes));
    EXPECT("1.8 aclrtMemGetAddressRange needs no context", 0, aclrtMemGetAddressRange(kept.device, &base, &size));
    EXPECT("1.8 aclrtMemGetAllocationGranularity needs no context", 0,
           aclrtMemGetAllocationGranularity(&prop, ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM, &size));
    EXPECT("1.8 aclrtReserveMemAddress needs no context", 0, aclrtReserveMemAddress(&reserved, GRANULE, 0, NULL, 0));
    EXPECT("1.8 aclrtMallocPhysical needs no context", 0, aclrtMallocPhysical(&handle, GRANULE, &prop, 0));
    EXPECT("1.8 aclrtMapMem needs no context", 0, aclrtMapMem(reserved, GRANULE, 0, handle, 0));
    EXPECT("1.8 aclrtMemSetAccess needs no context", 0, aclrtMemSetAccess(reserved, GRANULE, &access, 1));
    EXPECT("1.8 aclrtMemGetAccess needs no context", 0, aclrtMemGetAccess(reserved, &prop.location, &flags));
    EXPECT("1.8 aclrtMemRetainAllocationHandle needs no context", 0, aclrtMemRetainAllocationHandle(reserved, &retained));
    EXPECT("1.8 aclrtMemGetAllocationPropertiesFromHandle needs no context", 0, aclrtMemGetAllocationPropertiesFromHandle(handle, &prop));
    EXPECT("1.8 aclrtMemExportToShareableHandle needs no context", 0,
           aclrtMemExportToShareableHandle(handle, ACL_MEM_HANDLE_TYPE_NONE, 0, &shareable));
    EXPECT("1.8 aclrtMemSetPidToShareableHandle needs no context", 0, aclrtMemSetPidToShareableHandle(shareable, &pid, 1));
    EXPECT("1.8 aclrtUnmapMem needs no context", 0, aclrtUnmapMem(reserved));
    EXPECT("1.8 aclrtFreePhysical of a retained handle needs no context", 0, aclrtFreePhysical(retained));
    EXPECT("1.8 aclrtFreePhysical needs no context", 0, aclrtFreePhysical(handle));
    EXPECT("1.8 aclrtReleaseMemAddress needs no context", 0, aclrtReleaseMemAddress(reserved));
    EXPECT("1.8 aclrtSynchronizeEvent needs no context", 0, aclrtSynchronizeEvent(kept.event));
    EXPECT("1.8 aclrtQueryEventStatus needs no context", 0, aclrtQueryEventStatus(kept.event, &recorded));
    EXPECT("1.8 aclrtDestroyEvent needs no context", 0, aclrtDestroyEvent(kept.event));
    EXPECT("1.8 aclrtFree needs no context", 0, aclrtFree(kept.device));
    EXPECT("1.8 aclrtFreeHost needs no context", 0, aclrtFreeHost(kept.host));
}

static void context_requirements(void) {
    const aclrtPhysicalMemProp prop = {.memAttr = ACL_HBM_MEM_HUGE, .location = {.id = 0, .type = ACL_MEM_LOCATION_TYPE_DEVICE}};
    open_device();
    REQUIRE(aclrtCreateStream(&kept.stream));
    REQUIRE(aclrtCreateEvent(&kept.event));
    REQUIRE(aclrtMalloc(&kept.device, GRANULE, ACL_MEM_MALLOC_HUGE_FIRST));
    REQUIRE(aclrtMallocHost(&kept.host, GRANULE));
    REQUIRE(aclrtMallocPhysical(&kept.physical, GRANULE, &prop, 0));
    on_new_thread(calls_that_need_a_context);
    on_new_thread(calls_that_need_none);
    close_device();
}

const struct group runtime_groups[] = {
    {"init counts", init_counts},
    {"finalize before init", finalize_before_init},
    {"init path missing", init_path_missing},
    {"init file", init_file},
    {"init other content", init_other_content},
    {"init malformed", init_malformed},
    {"without init", without_init},
    {"api version", api_version},
    {"package versions", package_versions},
    {"soc name and run mode", soc_name_and_run_mode},
    {"last error", last_error},
    {"recent message", recent_message},
    {"devices", devices},
    {"visible duplicates", visible_duplicates},
    {"visible disorder", visible_disorder},
    {"visible one", visible_one},
    {"device waits", device_waits},
    {"peers and pid", peers_and_pid},
    {"contexts", contexts},
    {"streams", streams},
    {"stream destruction", stream_destruction},
    {"streams of other contexts", streams_of_other_contexts},
    {"stream limit", stream_limit},
    {"event creation", event_creation},
    {"event states", event_states},
    {"event times", event_times},
    {"stream order", stream_order},
    {"value waits", value_waits},
    {"context requirements", context_requirements},
    {0},
};
