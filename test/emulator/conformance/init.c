/* Sections 1.1, 1.2 and 1.8: initialisation, versions, and error codes. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conformance.h"

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
    EXPECT("1.1 aclrtGetVersion without major → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetVersion(NULL, &minor,
                                                                                                   &patch));
    EXPECT("1.1 aclrtGetVersion without minor → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetVersion(&major, NULL,
                                                                                                   &patch));
    EXPECT("1.1 aclrtGetVersion without patch → invalid", ACL_ERROR_INVALID_PARAM, aclrtGetVersion(&major, &minor,
                                                                                                   NULL));
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
    char runtime[] = "runtime";
    char missing[] = "camem-test-missing";
    char malformed[] = "camem-test-malformed";
    make_folder();
    unsetenv("ASCEND_HOME_PATH");
    EXPECT("1.1 aclsysGetVersionStr without a name → invalid", ACL_ERROR_INVALID_PARAM, aclsysGetVersionStr(NULL,
                                                                                                            text));
    EXPECT("1.1 aclsysGetVersionStr without a buffer → invalid", ACL_ERROR_INVALID_PARAM, aclsysGetVersionStr(package,
                                                                                                              NULL));
    EXPECT("1.1 aclsysGetVersionNum without a name → invalid", ACL_ERROR_INVALID_PARAM, aclsysGetVersionNum(NULL,
                                                                                                            &number));
    EXPECT("1.1 aclsysGetVersionNum without a number → invalid", ACL_ERROR_INVALID_PARAM, aclsysGetVersionNum(package,
                                                                                                              NULL));
    EXPECT("1.1 aclsysGetVersionStr without ASCEND_HOME_PATH → invalid file", ACL_ERROR_INVALID_FILE,
           aclsysGetVersionStr(package, text));
    EXPECT("1.1 aclsysGetVersionStr of the runtime without ASCEND_HOME_PATH → invalid file", ACL_ERROR_INVALID_FILE,
           aclsysGetVersionStr(runtime, text));
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
    EXPECT("1.1 aclrtPeekAtLastError of another level → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtPeekAtLastError((aclrtLastErrLevel)1));
    EXPECT("1.1 aclrtGetLastError of another level → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtGetLastError((aclrtLastErrLevel)1));
    EXPECT("1.1 no last error at first", 0, aclrtPeekAtLastError(ACL_RT_THREAD_LEVEL));
    EXPECT("8 a call that ACL itself refuses", ACL_ERROR_INVALID_PARAM, aclrtMalloc(&pointer, 0,
                                                                                    ACL_MEM_MALLOC_HUGE_FIRST));
    EXPECT("8 it leaves no last error", 0, aclrtPeekAtLastError(ACL_RT_THREAD_LEVEL));
    EXPECT("1.1 a call that the runtime refuses", ACL_ERROR_RT_PARAM_INVALID, aclrtMemSetAccess(NULL, GRANULE, &access,
                                                                                                1));
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

const struct group init_groups[] = {
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
    {0},
};
