/* After the vendor's memory sample 5: a kernel writes, a synchronous copy moves it on the device, a kernel reads it. */
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
    let_kernels_finish();
    CHECKED(aclrtMemcpy(destination, MEMORY_SIZE_BYTES, source, MEMORY_SIZE_BYTES, ACL_MEMCPY_DEVICE_TO_DEVICE));
    read_do(stream, destination);
    UNCHECKED(aclrtDestroyStreamForce(stream));
    UNCHECKED(aclrtFree(source));
    UNCHECKED(aclrtFree(destination));
    UNCHECKED(aclrtResetDeviceForce(0));
    UNCHECKED(aclFinalize());
    return 0;
}
