/* After the vendor's memory sample 3: a kernel writes, the stream is synchronised, a synchronous copy brings it home. */
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
    write_do(stream, device, SOURCE_VALUE);
    CHECKED(aclrtSynchronizeStream(stream));
    CHECKED(aclrtMemcpy(host, MEMORY_SIZE_BYTES, device, MEMORY_SIZE_BYTES, ACL_MEMCPY_DEVICE_TO_HOST));
    printf("Destination data: %d\n", *host);
    UNCHECKED(aclrtDestroyStreamForce(stream));
    UNCHECKED(aclrtFreeHost(host));
    UNCHECKED(aclrtFree(device));
    UNCHECKED(aclrtResetDeviceForce(0));
    UNCHECKED(aclFinalize());
    return 0;
}
