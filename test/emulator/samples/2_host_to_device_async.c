/* After the vendor's memory sample 2: host to device on a stream; a kernel reads what arrived. */
#include "kernels.h"
#include "sample.h"

int main(void) {
    aclrtStream stream = NULL;
    int *host = NULL;
    int *device = NULL;
    UNCHECKED(aclInit(NULL));
    UNCHECKED(aclrtSetDevice(0));
    UNCHECKED(aclrtCreateStream(&stream));
    CHECKED(aclrtMallocHost((void **)&host, MEMORY_SIZE_BYTES));
    CHECKED(aclrtMalloc((void **)&device, MEMORY_SIZE_BYTES, ACL_MEM_MALLOC_HUGE_FIRST));
    *host = SOURCE_VALUE;
    printf("Source data: %d\n", *host);
    CHECKED(aclrtMemcpyAsync(device, MEMORY_SIZE_BYTES, host, MEMORY_SIZE_BYTES, ACL_MEMCPY_HOST_TO_DEVICE, stream));
    UNCHECKED(aclrtSynchronizeStream(stream));
    read_do(stream, device);
    UNCHECKED(aclrtDestroyStreamForce(stream));
    UNCHECKED(aclrtFreeHost(host));
    UNCHECKED(aclrtFree(device));
    UNCHECKED(aclrtResetDeviceForce(0));
    UNCHECKED(aclFinalize());
    return 0;
}
