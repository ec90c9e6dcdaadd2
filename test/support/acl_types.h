/* The types and constants of AscendCL that acl.h declares functions with, and assertions on their values and layouts. */
#ifndef CAMEM_TEST_ACL_TYPES_H
#define CAMEM_TEST_ACL_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#error "these declarations are C11"
#endif

typedef int aclError;
typedef void *aclrtContext;
typedef void *aclrtStream;
typedef void *aclrtEvent;
typedef void *aclrtDrvMemHandle;

enum {
    ACL_SUCCESS = 0,
    ACL_ERROR_INVALID_PARAM = 100000,
    ACL_ERROR_UNINITIALIZE = 100001,
    ACL_ERROR_REPEAT_INITIALIZE = 100002,
    ACL_ERROR_INVALID_FILE = 100003,
    ACL_ERROR_REPEAT_FINALIZE = 100037,
    ACL_ERROR_COMPILING_STUB_MODE = 100039,
    ACL_ERROR_RT_PARAM_INVALID = 107000,
    ACL_ERROR_RT_INVALID_DEVICEID = 107001,
    ACL_ERROR_RT_CONTEXT_NULL = 107002,
    ACL_ERROR_RT_STREAM_CONTEXT = 107003,
    ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID = 107006,
    ACL_ERROR_RT_INVALID_MEMORY_TYPE = 107016,
    ACL_ERROR_RT_INVALID_HANDLE = 107017,
    ACL_ERROR_BAD_ALLOC = 200000,
    ACL_ERROR_FEATURE_UNSUPPORTED = 200006,
    ACL_ERROR_RT_FEATURE_NOT_SUPPORT = 207000,
    ACL_ERROR_RT_MEMORY_ALLOCATION = 207001,
    ACL_ERROR_RT_NO_DEVICE = 207004,
    ACL_ERROR_RT_NO_PERMISSION = 207006,
    ACL_ERROR_RT_NO_STREAM_RESOURCE = 207008,
    ACL_ERROR_INTERNAL_ERROR = 500000,
    ACL_ERROR_FAILURE = 500001,
    ACL_ERROR_RT_INTERNAL_ERROR = 507000,
    ACL_ERROR_RT_CONTEXT_RELEASE_ERROR = 507007,
    ACL_ERROR_RT_LOST_HEARTBEAT = 507010,
    ACL_ERROR_RT_DEV_SETUP_ERROR = 507033,
    ACL_ERROR_RT_STREAM_SYNC_TIMEOUT = 507046,
    ACL_ERROR_RT_EVENT_SYNC_TIMEOUT = 507047,
    ACL_ERROR_RT_DRV_INTERNAL_ERROR = 507899,
    ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 507910,
    ACL_ERROR_HOST_MEMORY_NOT_REGISTERED = 507911,
};

typedef enum { ACL_DEVICE, ACL_HOST } aclrtRunMode;

typedef enum {
    ACL_MEMCPY_HOST_TO_HOST,
    ACL_MEMCPY_HOST_TO_DEVICE,
    ACL_MEMCPY_DEVICE_TO_HOST,
    ACL_MEMCPY_DEVICE_TO_DEVICE,
    ACL_MEMCPY_DEFAULT,
    ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE,
    ACL_MEMCPY_INNER_DEVICE_TO_DEVICE,
    ACL_MEMCPY_INTER_DEVICE_TO_DEVICE,
} aclrtMemcpyKind;

typedef enum {
    ACL_MEM_MALLOC_HUGE_FIRST,
    ACL_MEM_MALLOC_HUGE_ONLY,
    ACL_MEM_MALLOC_NORMAL_ONLY,
    ACL_MEM_MALLOC_HUGE_FIRST_P2P,
    ACL_MEM_MALLOC_HUGE_ONLY_P2P,
    ACL_MEM_MALLOC_NORMAL_ONLY_P2P,
    ACL_MEM_MALLOC_HUGE1G_ONLY,
    ACL_MEM_MALLOC_HUGE1G_ONLY_P2P,
    ACL_MEM_TYPE_LOW_BAND_WIDTH = 0x100,
    ACL_MEM_TYPE_HIGH_BAND_WIDTH = 0x1000,
    ACL_MEM_ACCESS_USER_SPACE_READONLY = 0x100000,
} aclrtMemMallocPolicy;

typedef enum {
    ACL_DDR_MEM,
    ACL_HBM_MEM,
    ACL_DDR_MEM_HUGE,
    ACL_DDR_MEM_NORMAL,
    ACL_HBM_MEM_HUGE,
    ACL_HBM_MEM_NORMAL,
    ACL_DDR_MEM_P2P_HUGE,
    ACL_DDR_MEM_P2P_NORMAL,
    ACL_HBM_MEM_P2P_HUGE,
    ACL_HBM_MEM_P2P_NORMAL,
    ACL_HBM_MEM_HUGE1G,
    ACL_HBM_MEM_P2P_HUGE1G,
    ACL_MEM_NORMAL,
    ACL_MEM_HUGE,
    ACL_MEM_HUGE1G,
    ACL_MEM_P2P_NORMAL,
    ACL_MEM_P2P_HUGE,
    ACL_MEM_P2P_HUGE1G,
} aclrtMemAttr;

typedef enum {
    ACL_MEM_LOCATION_TYPE_HOST,
    ACL_MEM_LOCATION_TYPE_DEVICE,
    ACL_MEM_LOCATION_TYPE_UNREGISTERED,
    ACL_MEM_LOCATION_TYPE_MANAGED,
    ACL_MEM_LOCATION_TYPE_HOST_NUMA,
} aclrtMemLocationType;

typedef enum { ACL_MEM_HANDLE_TYPE_NONE = 0, ACL_MEM_HANDLE_TYPE_POSIX = 2 } aclrtMemHandleType;
typedef enum { ACL_MEM_ALLOCATION_TYPE_PINNED } aclrtMemAllocationType;
typedef enum { ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT = 1, ACL_MEM_SHARE_HANDLE_TYPE_FABRIC } aclrtMemSharedHandleType;

typedef enum {
    ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM,
    ACL_RT_MEM_ALLOC_GRANULARITY_RECOMMENDED,
    ACL_RT_MEM_ALLOC_GRANULARITY_UNDEF = 0xFFFF,
} aclrtMemGranularityOptions;

typedef enum {
    ACL_RT_MEM_ACCESS_FLAGS_NONE = 0,
    ACL_RT_MEM_ACCESS_FLAGS_READ = 1,
    ACL_RT_MEM_ACCESS_FLAGS_READWRITE = 3,
} aclrtMemAccessFlags;

typedef enum {
    ACL_HOST_REGISTER_MAPPED = 0,
    ACL_HOST_REGISTER_IOMEMORY = 4,
    ACL_HOST_REGISTER_READONLY = 8,
} aclrtHostRegisterType;

enum {
    ACL_HOST_REG_MAPPED = 0x2,
    ACL_HOST_REG_IOMEMORY = 0x4,
    ACL_HOST_REG_READONLY = 0x8,
    ACL_HOST_REG_PINNED = 0x10000000,
};

typedef enum {
    ACL_STREAM_STATUS_COMPLETE,
    ACL_STREAM_STATUS_NOT_READY,
    ACL_STREAM_STATUS_RESERVED = 0xFFFF,
} aclrtStreamStatus;

/* The two ways to ask about an event answer with opposite numbers. */
typedef enum { ACL_EVENT_RECORDED_STATUS_NOT_READY, ACL_EVENT_RECORDED_STATUS_COMPLETE } aclrtEventRecordedStatus;
typedef enum { ACL_EVENT_STATUS_COMPLETE, ACL_EVENT_STATUS_NOT_READY } aclrtEventStatus;
typedef enum { ACL_EVENT_WAIT_STATUS_COMPLETE, ACL_EVENT_WAIT_STATUS_NOT_READY } aclrtEventWaitStatus;

enum {
    ACL_EVENT_SYNC = 0x1,
    ACL_EVENT_CAPTURE_STREAM_PROGRESS = 0x2,
    ACL_EVENT_TIME_LINE = 0x8,
    ACL_EVENT_DEVICE_USE_ONLY = 0x10,
    ACL_EVENT_EXTERNAL = 0x20,
    ACL_EVENT_IPC = 0x40,
};

enum {
    ACL_STREAM_FAST_LAUNCH = 0x1,
    ACL_STREAM_FAST_SYNC = 0x2,
    ACL_STREAM_PERSISTENT = 0x4,
    ACL_STREAM_HUGE = 0x8,
    ACL_STREAM_CPU_SCHEDULE = 0x10,
    ACL_STREAM_DEVICE_USE_ONLY = 0x20,
};

enum {
    ACL_RT_VMM_EXPORT_FLAG_DEFAULT = 0,
    ACL_RT_VMM_EXPORT_FLAG_DISABLE_PID_VALIDATION = 1,
    ACL_RT_IPC_MEM_EXPORT_FLAG_DISABLE_PID_VALIDATION = 1,
    ACL_RT_IPC_MEM_IMPORT_FLAG_ENABLE_PEER_ACCESS = 1,
};

typedef enum { ACL_RT_THREAD_LEVEL } aclrtLastErrLevel;

enum { ACL_STREAM_WAIT_VALUE_GEQ, ACL_STREAM_WAIT_VALUE_EQ, ACL_STREAM_WAIT_VALUE_AND, ACL_STREAM_WAIT_VALUE_NOR };

typedef enum {
    ACL_PKG_NAME_CANN,
    ACL_PKG_NAME_RUNTIME,
    ACL_PKG_NAME_COMPILER,
    ACL_PKG_NAME_HCCL,
    ACL_PKG_NAME_TOOLKIT,
    ACL_PKG_NAME_OPP,
    ACL_PKG_NAME_OPP_KERNEL,
    ACL_PKG_NAME_DRIVER,
} aclCANNPackageName;

typedef enum { ACL_RT_MEM_ATTR_RSV, ACL_RT_MEM_ATTR_MODULE_ID, ACL_RT_MEM_ATTR_DEVICE_ID, ACL_RT_MEM_ATTR_VA_FLAG } aclrtMallocAttrType;

enum { ACL_PKG_VERSION_MAX_SIZE = 128 };

typedef struct {
    uint32_t id;
    aclrtMemLocationType type;
} aclrtMemLocation;

typedef struct {
    aclrtMemHandleType handleType;
    aclrtMemAllocationType allocationType;
    aclrtMemAttr memAttr;
    aclrtMemLocation location;
    uint64_t reserve;
} aclrtPhysicalMemProp;

typedef struct {
    aclrtMemAccessFlags flags;
    aclrtMemLocation location;
    uint8_t rsv[12];
} aclrtMemAccessDesc;

typedef struct {
    aclrtMemLocation location;
    uint32_t pageSize;
    uint32_t rsv[4];
} aclrtPtrAttributes;

typedef struct {
    aclrtMemLocation dstLoc;
    aclrtMemLocation srcLoc;
    uint8_t rsv[16];
} aclrtMemcpyBatchAttr;

typedef union {
    uint32_t words[2];
} aclrtMallocAttrValue;

typedef struct {
    aclrtMallocAttrType attr;
    aclrtMallocAttrValue value;
} aclrtMallocAttribute;

typedef struct {
    aclrtMallocAttribute *attrs;
    size_t numAttrs;
} aclrtMallocConfig;

typedef struct {
    uint8_t data[128];
} aclrtMemFabricHandle;

typedef struct {
    char name[32];
    uint64_t curMemSize;
    uint64_t memPeakSize;
    uint64_t reserved[8];
} aclrtMemUsageInfo;

typedef struct {
    void *addr;
    size_t len;
    size_t reserved[14];
} aclrtMemUceInfo;

typedef struct {
    uint32_t sdid;
    int32_t *pid;
    size_t num;
} aclrtServerPid;

typedef struct {
    void *workptr;
    size_t workSize;
    size_t flag;
    uint32_t priority;
} aclrtStreamConfigHandle;

typedef struct {
    uint64_t opaque[3];
} aclrtUtilizationInfo;

typedef struct {
    uint8_t tryRepair;
    uint8_t hasDetail;
    int32_t errorType;
    uint64_t detail[321];
} aclrtErrorInfo;

typedef struct {
    char version[128];
    char major[64];
    char minor[64];
    char release[64];
    char patch[64];
    char reserved[128];
} aclCANNPackageVersion;

typedef struct {
    uint8_t bytes[16];
} aclrtUuid;

typedef struct {
    uint8_t reserved[64];
} aclrtIpcEventHandle;

typedef struct {
    uint32_t words[2];
} aclrtMemManagedLocation;

#define CAMEM_LAYOUT(type, size, alignment) \
    _Static_assert(sizeof(type) == (size) && _Alignof(type) == (alignment), #type " has another size or alignment")
#define CAMEM_FIELD(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field)
#define CAMEM_VALUE(name, value) _Static_assert((name) == (value), #name)

CAMEM_LAYOUT(aclError, 4, 4);
CAMEM_LAYOUT(aclrtStream, 8, 8);
CAMEM_LAYOUT(aclrtDrvMemHandle, 8, 8);
CAMEM_LAYOUT(aclrtMemLocation, 8, 4);
CAMEM_FIELD(aclrtMemLocation, id, 0);
CAMEM_FIELD(aclrtMemLocation, type, 4);
CAMEM_LAYOUT(aclrtPhysicalMemProp, 32, 8);
CAMEM_FIELD(aclrtPhysicalMemProp, handleType, 0);
CAMEM_FIELD(aclrtPhysicalMemProp, allocationType, 4);
CAMEM_FIELD(aclrtPhysicalMemProp, memAttr, 8);
CAMEM_FIELD(aclrtPhysicalMemProp, location, 12);
CAMEM_FIELD(aclrtPhysicalMemProp, reserve, 24);
CAMEM_LAYOUT(aclrtMemAccessDesc, 24, 4);
CAMEM_FIELD(aclrtMemAccessDesc, flags, 0);
CAMEM_FIELD(aclrtMemAccessDesc, location, 4);
CAMEM_FIELD(aclrtMemAccessDesc, rsv, 12);
CAMEM_LAYOUT(aclrtPtrAttributes, 28, 4);
CAMEM_FIELD(aclrtPtrAttributes, location, 0);
CAMEM_FIELD(aclrtPtrAttributes, pageSize, 8);
CAMEM_FIELD(aclrtPtrAttributes, rsv, 12);
CAMEM_LAYOUT(aclrtMemcpyBatchAttr, 32, 4);
CAMEM_FIELD(aclrtMemcpyBatchAttr, dstLoc, 0);
CAMEM_FIELD(aclrtMemcpyBatchAttr, srcLoc, 8);
CAMEM_FIELD(aclrtMemcpyBatchAttr, rsv, 16);
CAMEM_LAYOUT(aclrtMallocAttrValue, 8, 4);
CAMEM_LAYOUT(aclrtMallocAttribute, 12, 4);
CAMEM_FIELD(aclrtMallocAttribute, value, 4);
CAMEM_LAYOUT(aclrtMallocConfig, 16, 8);
CAMEM_FIELD(aclrtMallocConfig, numAttrs, 8);
CAMEM_LAYOUT(aclrtMemFabricHandle, 128, 1);
CAMEM_LAYOUT(aclrtMemUsageInfo, 112, 8);
CAMEM_FIELD(aclrtMemUsageInfo, curMemSize, 32);
CAMEM_FIELD(aclrtMemUsageInfo, memPeakSize, 40);
CAMEM_FIELD(aclrtMemUsageInfo, reserved, 48);
CAMEM_LAYOUT(aclrtMemUceInfo, 128, 8);
CAMEM_FIELD(aclrtMemUceInfo, len, 8);
CAMEM_FIELD(aclrtMemUceInfo, reserved, 16);
CAMEM_LAYOUT(aclrtServerPid, 24, 8);
CAMEM_FIELD(aclrtServerPid, pid, 8);
CAMEM_FIELD(aclrtServerPid, num, 16);
CAMEM_LAYOUT(aclrtStreamConfigHandle, 32, 8);
CAMEM_FIELD(aclrtStreamConfigHandle, flag, 16);
CAMEM_FIELD(aclrtStreamConfigHandle, priority, 24);
CAMEM_LAYOUT(aclrtUtilizationInfo, 24, 8);
CAMEM_LAYOUT(aclrtErrorInfo, 2576, 8);
CAMEM_FIELD(aclrtErrorInfo, errorType, 4);
CAMEM_FIELD(aclrtErrorInfo, detail, 8);
CAMEM_LAYOUT(aclCANNPackageVersion, 512, 1);
CAMEM_FIELD(aclCANNPackageVersion, major, 128);
CAMEM_FIELD(aclCANNPackageVersion, minor, 192);
CAMEM_FIELD(aclCANNPackageVersion, release, 256);
CAMEM_FIELD(aclCANNPackageVersion, patch, 320);
CAMEM_FIELD(aclCANNPackageVersion, reserved, 384);
CAMEM_LAYOUT(aclrtUuid, 16, 1);
CAMEM_LAYOUT(aclrtIpcEventHandle, 64, 1);
CAMEM_LAYOUT(aclrtMemManagedLocation, 8, 4);

CAMEM_LAYOUT(aclrtRunMode, 4, 4);
CAMEM_LAYOUT(aclrtMemcpyKind, 4, 4);
CAMEM_LAYOUT(aclrtMemMallocPolicy, 4, 4);
CAMEM_LAYOUT(aclrtMemAttr, 4, 4);
CAMEM_LAYOUT(aclrtMemLocationType, 4, 4);
CAMEM_LAYOUT(aclrtMemGranularityOptions, 4, 4);
CAMEM_LAYOUT(aclrtMemAccessFlags, 4, 4);
CAMEM_LAYOUT(aclrtStreamStatus, 4, 4);
CAMEM_LAYOUT(aclrtEventRecordedStatus, 4, 4);

CAMEM_VALUE(ACL_DEVICE, 0);
CAMEM_VALUE(ACL_HOST, 1);
CAMEM_VALUE(ACL_MEMCPY_HOST_TO_HOST, 0);
CAMEM_VALUE(ACL_MEMCPY_HOST_TO_DEVICE, 1);
CAMEM_VALUE(ACL_MEMCPY_DEVICE_TO_HOST, 2);
CAMEM_VALUE(ACL_MEMCPY_DEVICE_TO_DEVICE, 3);
CAMEM_VALUE(ACL_MEMCPY_DEFAULT, 4);
CAMEM_VALUE(ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE, 5);
CAMEM_VALUE(ACL_MEMCPY_INTER_DEVICE_TO_DEVICE, 7);
CAMEM_VALUE(ACL_MEM_MALLOC_HUGE_FIRST, 0);
CAMEM_VALUE(ACL_MEM_MALLOC_NORMAL_ONLY, 2);
CAMEM_VALUE(ACL_MEM_MALLOC_HUGE1G_ONLY_P2P, 7);
CAMEM_VALUE(ACL_DDR_MEM_HUGE, 2);
CAMEM_VALUE(ACL_HBM_MEM_HUGE, 4);
CAMEM_VALUE(ACL_HBM_MEM_NORMAL, 5);
CAMEM_VALUE(ACL_DDR_MEM_P2P_NORMAL, 7);
CAMEM_VALUE(ACL_HBM_MEM_HUGE1G, 10);
CAMEM_VALUE(ACL_MEM_NORMAL, 12);
CAMEM_VALUE(ACL_MEM_HUGE, 13);
CAMEM_VALUE(ACL_MEM_P2P_HUGE1G, 17);
CAMEM_VALUE(ACL_MEM_LOCATION_TYPE_HOST, 0);
CAMEM_VALUE(ACL_MEM_LOCATION_TYPE_DEVICE, 1);
CAMEM_VALUE(ACL_MEM_LOCATION_TYPE_UNREGISTERED, 2);
CAMEM_VALUE(ACL_MEM_LOCATION_TYPE_MANAGED, 3);
CAMEM_VALUE(ACL_MEM_LOCATION_TYPE_HOST_NUMA, 4);
CAMEM_VALUE(ACL_MEM_SHARE_HANDLE_TYPE_FABRIC, 2);
CAMEM_VALUE(ACL_RT_MEM_ALLOC_GRANULARITY_RECOMMENDED, 1);
CAMEM_VALUE(ACL_STREAM_STATUS_NOT_READY, 1);
CAMEM_VALUE(ACL_EVENT_RECORDED_STATUS_COMPLETE, 1);
CAMEM_VALUE(ACL_EVENT_STATUS_COMPLETE, 0);
CAMEM_VALUE(ACL_STREAM_WAIT_VALUE_EQ, 1);
CAMEM_VALUE(ACL_STREAM_WAIT_VALUE_NOR, 3);
CAMEM_VALUE(ACL_PKG_NAME_DRIVER, 7);

/* The class rule of the codes: a caller's mistake, a resource or an unsupported feature, an internal or hardware failure. */
CAMEM_VALUE(ACL_ERROR_INVALID_PARAM / 100000, 1);
CAMEM_VALUE(ACL_ERROR_RT_PARAM_INVALID, 107000);
CAMEM_VALUE(ACL_ERROR_RT_INVALID_HANDLE, 107017);
CAMEM_VALUE(ACL_ERROR_RT_MEMORY_ALLOCATION, 207001);
CAMEM_VALUE(ACL_ERROR_RT_DRV_INTERNAL_ERROR, 507899);

#endif
