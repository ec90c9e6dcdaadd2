/* After the vendor's memory sample 6: a kernel writes, a copy on the same stream moves it, a kernel reads it. */
#include "kernels.h"
#include "sample.h"

int main(void) {
    aclrtStream stream = NULL;
    int *source = NULL;
    int *destination = NULL;
    UNCHECKED(aclInit(NULL));
    UNCHECKED(aclrtSetDevice(0));
    UNCHECKED(aclrtCreateStream(&stream));
    CHECKED(aclrtMalloc((void **)&source, MEMORY_SIZE_BYTES, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECKED(aclrtMalloc((void **)&destination, MEMORY_SIZE_BYTES, ACL_MEM_MALLOC_HUGE_FIRST));
    write_do(stream, source, SOURCE_VALUE);
    CHECKED(aclrtMemcpyAsync(destination, MEMORY_SIZE_BYTES, source, MEMORY_SIZE_BYTES, ACL_MEMCPY_DEVICE_TO_DEVICE,
                             stream));
    UNCHECKED(aclrtSynchronizeStream(stream));
    read_do(stream, destination);
    UNCHECKED(aclrtDestroyStreamForce(stream));
    UNCHECKED(aclrtFree(source));
    UNCHECKED(aclrtFree(destination));
    UNCHECKED(aclrtResetDeviceForce(0));
    UNCHECKED(aclFinalize());
    return 0;
}
