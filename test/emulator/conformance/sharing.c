/* Section 4: sharing physical memory between processes. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>

#include "vmm.h"

enum { MOST_PIDS = 65535 };

static void export_arguments(void) {
    open_device();
    aclrtDrvMemHandle handle = back(GRANULE);
    aclrtDrvMemHandle second = back(GRANULE);
    uint64_t shareable = 0;
    int32_t pid = getpid();
    int32_t *pids = calloc(MOST_PIDS + 1, sizeof(int32_t));
    EXPECT("1.7 export of NULL → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemExportToShareableHandle(NULL,
                                                                                                    ACL_MEM_HANDLE_TYPE_NONE, 0, &shareable));
    EXPECT("1.7 export without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemExportToShareableHandle(handle, ACL_MEM_HANDLE_TYPE_NONE, 0, NULL));
    EXPECT("1.7 export of a POSIX handle → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemExportToShareableHandle(handle,
                                                                                                              ACL_MEM_HANDLE_TYPE_POSIX, 0, &shareable));
    EXPECT("1.7 export with flags 2 → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemExportToShareableHandle(handle,
                                                                                                            ACL_MEM_HANDLE_TYPE_NONE, 2, &shareable));
    EXPECT("1.7 export → 0", 0, aclrtMemExportToShareableHandle(handle, ACL_MEM_HANDLE_TYPE_NONE, 0, &shareable));
    EXPECT("4.7 a shareable handle carries its device", 0, (shareable >> 32) & 0xFF);
    check_error("1.7 export twice → error", aclrtMemExportToShareableHandle(handle, ACL_MEM_HANDLE_TYPE_NONE, 0,
                                                                            &shareable));
    EXPECT("1.7 set pids without pids → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemSetPidToShareableHandle(shareable,
                                                                                                           NULL, 1));
    EXPECT("1.7 set no pid → invalid", ACL_ERROR_INVALID_PARAM, aclrtMemSetPidToShareableHandle(shareable, &pid, 0));
    EXPECT("1.7 set 65536 pids → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemSetPidToShareableHandle(shareable, pids,
                                                                                                       MOST_PIDS + 1));
    EXPECT("1.7 set a pid → 0", 0, aclrtMemSetPidToShareableHandle(shareable, &pid, 1));
    EXPECT("1.7 export V2 of NULL → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemExportToShareableHandleV2(NULL, 0, ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT, &shareable));
    EXPECT("1.7 export V2 without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemExportToShareableHandleV2(second, 0, ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT, NULL));
    EXPECT("1.7 export V2 of type 0 → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemExportToShareableHandleV2(second, 0,
                                                                                                              (aclrtMemSharedHandleType)0, &shareable));
    EXPECT("1.7 export V2 of type 3 → invalid", ACL_ERROR_RT_PARAM_INVALID, aclrtMemExportToShareableHandleV2(second, 0,
                                                                                                              (aclrtMemSharedHandleType)3, &shareable));
    EXPECT("1.7 export V2 with flags 2 → invalid", ACL_ERROR_RT_PARAM_INVALID,
           aclrtMemExportToShareableHandleV2(second, 2, ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT, &shareable));
    EXPECT("1.7 export V2 → 0", 0, aclrtMemExportToShareableHandleV2(second, 1, ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT,
                                                                     &shareable));
    check_error("4.7 set a pid where no list is kept → error", aclrtMemSetPidToShareableHandle(shareable, &pid, 1));
    EXPECT("1.7 import without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemImportFromShareableHandle(shareable, 0, NULL));
    EXPECT("1.7 import on a bad device → bad device", ACL_ERROR_RT_INVALID_DEVICEID,
           aclrtMemImportFromShareableHandle(shareable, (int32_t)device_count(), &handle));
    EXPECT("1.7 import V2 of NULL → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemImportFromShareableHandleV2(NULL, ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT, 0, &handle));
    EXPECT("1.7 import V2 without an out-pointer → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemImportFromShareableHandleV2(&shareable, ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT, 0, NULL));
    EXPECT("1.7 import V2 with flags → invalid", ACL_ERROR_INVALID_PARAM,
           aclrtMemImportFromShareableHandleV2(&shareable, ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT, 1, &handle));
    free(pids);
    close_device();
}

struct offer {
    uint64_t open;
    uint64_t listed;
};

/* Exports memory to any process that knows the handle, and memory to the processes on a list. */
static void exporter(int channel) {
    struct offer offer = {0};
    int32_t pid = 0;
    open_device();
    void *address = reserve(GRANULE);
    aclrtDrvMemHandle open = back(GRANULE);
    aclrtDrvMemHandle listed = back(GRANULE);
    REQUIRE(aclrtMapMem(address, GRANULE, 0, open, 0));
    set_first_word(address, 0x5EED);
    REQUIRE(aclrtMemExportToShareableHandle(open, ACL_MEM_HANDLE_TYPE_NONE,
                                            ACL_RT_VMM_EXPORT_FLAG_DISABLE_PID_VALIDATION, &offer.open));
    REQUIRE(aclrtMemExportToShareableHandle(listed, ACL_MEM_HANDLE_TYPE_NONE, ACL_RT_VMM_EXPORT_FLAG_DEFAULT,
                                            &offer.listed));
    channel_send(channel, &offer, sizeof(offer));
    channel_receive(channel, &pid, sizeof(pid));
    EXPECT("4.7 set the importer's pid → 0", 0, aclrtMemSetPidToShareableHandle(offer.listed, &pid, 1));
    channel_send(channel, &pid, sizeof(pid));
    channel_receive(channel, &pid, sizeof(pid));
    EXPECT("4.7 what the importer wrote is here", 0xFEED, first_word(address));
    EXPECT("4.7 the exporter unmaps → 0", 0, aclrtUnmapMem(address));
    EXPECT("4.7 the exporter frees → 0", 0, aclrtFreePhysical(open));
    channel_send(channel, &pid, sizeof(pid));
    channel_receive(channel, &pid, sizeof(pid));
    REQUIRE(aclrtFreePhysical(listed));
    close_device();
}

static void imported_batch(void *address) {
    uint32_t word = 0;
    void *destinations[1] = {&word};
    void *sources[1] = {address};
    size_t sizes[1] = {sizeof(word)};
    size_t indexes[1] = {0};
    size_t failed = 0;
    aclrtMemcpyBatchAttr attribute = {.dstLoc = on_host, .srcLoc = on_device};
    EXPECT("4.5 a batch on imported memory → unsupported", ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
           aclrtMemcpyBatch(destinations, sizes, sources, sizes, 1, &attribute, indexes, 1, &failed));
}

static void sharing(void) {
    struct peer peer = start_peer(exporter);
    struct offer offer = {0};
    aclrtDrvMemHandle handle = NULL, again = NULL, listed = NULL;
    int32_t pid = 0;
    open_device();
    channel_receive(peer.channel, &offer, sizeof(offer));
    REQUIRE(aclrtDeviceGetBareTgid(&pid));
    check_error("4.7 import by a process that is not on the list → error",
                aclrtMemImportFromShareableHandle(offer.listed, 0, &listed));
    channel_send(peer.channel, &pid, sizeof(pid));
    channel_receive(peer.channel, &pid, sizeof(pid));
    EXPECT("4.7 import by a process on the list → 0", 0, aclrtMemImportFromShareableHandle(offer.listed, 0, &listed));
    EXPECT("4.7 import where no list is kept → 0", 0, aclrtMemImportFromShareableHandle(offer.open, 0, &handle));
    EXPECT("1.7 import a second time → 0", 0, aclrtMemImportFromShareableHandle(offer.open, 0, &again));
    check_true("1.7 it gives the same handle", handle == again && handle != NULL);
    void *address = reserve(GRANULE);
    EXPECT("4.7 map of imported memory → 0", 0, aclrtMapMem(address, GRANULE, 0, handle, 0));
    EXPECT("4.7 what the exporter wrote is here", 0x5EED, first_word(address));
    set_first_word(address, 0xFEED);
    imported_batch(address);
    channel_send(peer.channel, &pid, sizeof(pid));
    channel_receive(peer.channel, &pid, sizeof(pid));
    EXPECT("4.7 the memory outlives its exporter's free", 0xFEED, first_word(address));
    REQUIRE(aclrtUnmapMem(address));
    EXPECT("1.7 free the imported handle → 0", 0, aclrtFreePhysical(handle));
    EXPECT("1.7 free the second reference → 0", 0, aclrtFreePhysical(again));
    check_error("1.7 import of memory that is freed → error", aclrtMemImportFromShareableHandle(offer.open, 0,
                                                                                                &handle));
    REQUIRE(aclrtFreePhysical(listed));
    channel_send(peer.channel, &pid, sizeof(pid));
    finish_peer(peer);
    close_device();
}

const struct group sharing_groups[] = {
    {"export arguments", export_arguments},
    {"sharing", sharing},
    {0},
};
