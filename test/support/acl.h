/* AscendCL for the C programs under test: declared from interface facts (names, values, sizes, offsets), so that C compiled here
 * and the library under test share only the ABI. Written independently of shim/src/acl.zig, so that an error in one of the two
 * shows. */
#ifndef CAMEM_TEST_ACL_H
#define CAMEM_TEST_ACL_H

#include "acl_types.h"

/* The conformance program declares functions weak, so that a missing export is one named failure. */
#ifndef ACL_FUNCTION
#define ACL_FUNCTION extern
#endif

/* Initialisation, version, errors. */
ACL_FUNCTION aclError aclInit(const char *configPath);
ACL_FUNCTION aclError aclFinalize(void);
ACL_FUNCTION aclError aclFinalizeReference(uint64_t *refCount);
ACL_FUNCTION aclError aclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch);
ACL_FUNCTION aclError aclsysGetVersionStr(char *pkgName, char *versionStr);
ACL_FUNCTION aclError aclsysGetVersionNum(char *pkgName, int32_t *versionNum);
ACL_FUNCTION aclError aclsysGetCANNVersion(aclCANNPackageName name, aclCANNPackageVersion *version);
ACL_FUNCTION const char *aclrtGetSocName(void);
ACL_FUNCTION const char *aclGetRecentErrMsg(void);
ACL_FUNCTION aclError aclrtPeekAtLastError(aclrtLastErrLevel level);
ACL_FUNCTION aclError aclrtGetLastError(aclrtLastErrLevel level);
ACL_FUNCTION aclError aclrtGetRunMode(aclrtRunMode *mode);

/* Devices. */
ACL_FUNCTION aclError aclrtGetDeviceCount(uint32_t *count);
ACL_FUNCTION aclError aclrtSetDevice(int32_t deviceId);
ACL_FUNCTION aclError aclrtGetDevice(int32_t *deviceId);
ACL_FUNCTION aclError aclrtResetDevice(int32_t deviceId);
ACL_FUNCTION aclError aclrtResetDeviceForce(int32_t deviceId);
ACL_FUNCTION aclError aclrtSynchronizeDevice(void);
ACL_FUNCTION aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeoutMs);
ACL_FUNCTION aclError aclrtDeviceCanAccessPeer(int32_t *canAccessPeer, int32_t deviceId, int32_t peerDeviceId);
ACL_FUNCTION aclError aclrtDeviceEnablePeerAccess(int32_t peerDeviceId, uint32_t flags);
ACL_FUNCTION aclError aclrtDeviceDisablePeerAccess(int32_t peerDeviceId);
ACL_FUNCTION aclError aclrtDeviceGetBareTgid(int32_t *pid);

/* Contexts. */
ACL_FUNCTION aclError aclrtCreateContext(aclrtContext *context, int32_t deviceId);
ACL_FUNCTION aclError aclrtDestroyContext(aclrtContext context);
ACL_FUNCTION aclError aclrtSetCurrentContext(aclrtContext context);
ACL_FUNCTION aclError aclrtGetCurrentContext(aclrtContext *context);
ACL_FUNCTION aclError aclrtGetPrimaryCtxState(int32_t deviceId, uint32_t *flags, int32_t *active);
ACL_FUNCTION aclError aclrtCtxGetCurrentDefaultStream(aclrtStream *stream);

/* Streams. */
ACL_FUNCTION aclError aclrtCreateStream(aclrtStream *stream);
ACL_FUNCTION aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flag);
ACL_FUNCTION aclError aclrtDestroyStream(aclrtStream stream);
ACL_FUNCTION aclError aclrtDestroyStreamForce(aclrtStream stream);
ACL_FUNCTION aclError aclrtSynchronizeStream(aclrtStream stream);
ACL_FUNCTION aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeoutMs);
ACL_FUNCTION aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus *status);
ACL_FUNCTION aclError aclrtStreamGetId(aclrtStream stream, int32_t *streamId);
ACL_FUNCTION aclError aclrtStreamGetPriority(aclrtStream stream, uint32_t *priority);
ACL_FUNCTION aclError aclrtStreamGetFlags(aclrtStream stream, uint32_t *flags);
ACL_FUNCTION aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t mode);
ACL_FUNCTION aclError aclrtLaunchHostFunc(aclrtStream stream, void (*fn)(void *), void *args);
ACL_FUNCTION aclError aclrtLaunchCallback(void (*fn)(void *), void *userData, int blockType, aclrtStream stream);
ACL_FUNCTION aclError aclrtValueWait(void *devAddr, uint64_t value, uint32_t flag, aclrtStream stream);
ACL_FUNCTION aclError aclrtValueWrite(void *devAddr, uint64_t value, uint32_t flag, aclrtStream stream);

/* Events. */
ACL_FUNCTION aclError aclrtCreateEvent(aclrtEvent *event);
ACL_FUNCTION aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flag);
ACL_FUNCTION aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flag);
ACL_FUNCTION aclError aclrtDestroyEvent(aclrtEvent event);
ACL_FUNCTION aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream);
ACL_FUNCTION aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event);
ACL_FUNCTION aclError aclrtSynchronizeEvent(aclrtEvent event);
ACL_FUNCTION aclError aclrtSynchronizeEventWithTimeout(aclrtEvent event, int32_t timeoutMs);
ACL_FUNCTION aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status);
ACL_FUNCTION aclError aclrtQueryEvent(aclrtEvent event, aclrtEventStatus *status);
ACL_FUNCTION aclError aclrtEventElapsedTime(float *ms, aclrtEvent start, aclrtEvent end);

/* Ordinary memory and copies. */
ACL_FUNCTION aclError aclrtMalloc(void **devPtr, size_t size, aclrtMemMallocPolicy policy);
ACL_FUNCTION aclError aclrtMallocAlign32(void **devPtr, size_t size, aclrtMemMallocPolicy policy);
ACL_FUNCTION aclError aclrtMallocCached(void **devPtr, size_t size, aclrtMemMallocPolicy policy);
ACL_FUNCTION aclError aclrtFree(void *devPtr);
ACL_FUNCTION aclError aclrtMallocHost(void **hostPtr, size_t size);
ACL_FUNCTION aclError aclrtFreeHost(void *hostPtr);
ACL_FUNCTION aclError aclrtHostRegister(void *ptr, uint64_t size, aclrtHostRegisterType type, void **devPtr);
ACL_FUNCTION aclError aclrtHostRegisterV2(void *ptr, uint64_t size, uint32_t flag);
ACL_FUNCTION aclError aclrtHostUnregister(void *ptr);
ACL_FUNCTION aclError aclrtHostGetDevicePointer(void *pHost, void **pDevice, uint32_t flag);
ACL_FUNCTION aclError aclrtMemAllocManaged(void **ptr, uint64_t size, uint32_t flag);
ACL_FUNCTION aclError aclrtMemset(void *devPtr, size_t maxCount, int32_t value, size_t count);
ACL_FUNCTION aclError aclrtMemsetAsync(void *devPtr, size_t maxCount, int32_t value, size_t count, aclrtStream stream);
ACL_FUNCTION aclError aclrtMemcpy(void *dst, size_t destMax, const void *src, size_t count, aclrtMemcpyKind kind);
ACL_FUNCTION aclError aclrtMemcpyAsync(void *dst, size_t destMax, const void *src, size_t count, aclrtMemcpyKind kind,
                                       aclrtStream stream);
ACL_FUNCTION aclError aclrtMemcpyBatch(void **dsts, size_t *destMaxs, void **srcs, size_t *sizes, size_t numBatches,
                                       aclrtMemcpyBatchAttr *attrs, size_t *attrsIndexes, size_t numAttrs,
                                       size_t *failIndex);
ACL_FUNCTION aclError aclrtMemcpyBatchV2(void **dsts, size_t *destMaxs, void **srcs, size_t *sizes, size_t numBatches,
                                         aclrtMemcpyBatchAttr *attrs, size_t *attrsIndexes, size_t numAttrs);
ACL_FUNCTION aclError aclrtMemcpyBatchAsync(void **dsts, size_t *destMaxs, void **srcs, size_t *sizes,
                                            size_t numBatches, aclrtMemcpyBatchAttr *attrs, size_t *attrsIndexes,
                                            size_t numAttrs, size_t *failIndex, aclrtStream stream);
ACL_FUNCTION aclError aclrtMemcpyBatchAsyncV2(void **dsts, size_t *destMaxs, void **srcs, size_t *sizes,
                                              size_t numBatches, aclrtMemcpyBatchAttr *attrs, size_t *attrsIndexes,
                                              size_t numAttrs, aclrtStream stream);
ACL_FUNCTION aclError aclrtGetMemInfo(aclrtMemAttr attr, size_t *free, size_t *total);
ACL_FUNCTION aclError aclrtPointerGetAttributes(const void *ptr, aclrtPtrAttributes *attributes);

/* Virtual memory management. */
ACL_FUNCTION aclError aclrtReserveMemAddress(void **virPtr, size_t size, size_t alignment, void *expectPtr,
                                             uint64_t flags);
ACL_FUNCTION aclError aclrtReleaseMemAddress(void *virPtr);
ACL_FUNCTION aclError aclrtMallocPhysical(aclrtDrvMemHandle *handle, size_t size, const aclrtPhysicalMemProp *prop,
                                          uint64_t flags);
ACL_FUNCTION aclError aclrtFreePhysical(aclrtDrvMemHandle handle);
ACL_FUNCTION aclError aclrtMapMem(void *virPtr, size_t size, size_t offset, aclrtDrvMemHandle handle, uint64_t flags);
ACL_FUNCTION aclError aclrtMemMapNoAccess(void *virPtr, size_t size, size_t offset, aclrtDrvMemHandle handle,
                                          uint64_t flags);
ACL_FUNCTION aclError aclrtUnmapMem(void *virPtr);
ACL_FUNCTION aclError aclrtMemSetAccess(void *virPtr, size_t size, aclrtMemAccessDesc *desc, size_t count);
ACL_FUNCTION aclError aclrtMemGetAccess(void *virPtr, aclrtMemLocation *location, uint64_t *flag);
ACL_FUNCTION aclError aclrtMemGetAllocationGranularity(aclrtPhysicalMemProp *prop, aclrtMemGranularityOptions option,
                                                       size_t *granularity);
ACL_FUNCTION aclError aclrtMemRetainAllocationHandle(void *virPtr, aclrtDrvMemHandle *handle);
ACL_FUNCTION aclError aclrtMemGetAllocationPropertiesFromHandle(aclrtDrvMemHandle handle, aclrtPhysicalMemProp *prop);
ACL_FUNCTION aclError aclrtMemGetAddressRange(void *ptr, void **pbase, size_t *psize);
ACL_FUNCTION aclError aclrtMemExportToShareableHandle(aclrtDrvMemHandle handle, aclrtMemHandleType handleType,
                                                      uint64_t flags, uint64_t *shareableHandle);
ACL_FUNCTION aclError aclrtMemExportToShareableHandleV2(aclrtDrvMemHandle handle, uint64_t flags,
                                                        aclrtMemSharedHandleType shareType, void *shareableHandle);
ACL_FUNCTION aclError aclrtMemSetPidToShareableHandle(uint64_t shareableHandle, int32_t *pid, size_t pidNum);
ACL_FUNCTION aclError aclrtMemSetPidToShareableHandleV2(void *shareableHandle, aclrtMemSharedHandleType shareType,
                                                        int32_t *pid, size_t pidNum);
ACL_FUNCTION aclError aclrtMemImportFromShareableHandle(uint64_t shareableHandle, int32_t deviceId,
                                                        aclrtDrvMemHandle *handle);
ACL_FUNCTION aclError aclrtMemImportFromShareableHandleV2(void *shareableHandle, aclrtMemSharedHandleType shareType,
                                                          uint64_t flags, aclrtDrvMemHandle *handle);

/* Sharing of aclrtMalloc memory between processes. */
ACL_FUNCTION aclError aclrtIpcMemGetExportKey(void *devPtr, size_t size, char *key, size_t len, uint64_t flags);
ACL_FUNCTION aclError aclrtIpcMemImportByKey(void **devPtr, const char *key, uint64_t flags);
ACL_FUNCTION aclError aclrtIpcMemSetImportPid(const char *key, int32_t *pid, size_t num);
ACL_FUNCTION aclError aclrtIpcMemClose(const char *key);

#endif
