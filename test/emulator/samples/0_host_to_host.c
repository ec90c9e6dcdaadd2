/* After the vendor's memory sample 0: a synchronous copy between two pieces of page-locked host memory. */
#include "sample.h"

int main(void) {
    aclrtStream stream = NULL;
    int *source = NULL;
    int *destination = NULL;
    UNCHECKED(aclInit(NULL));
    UNCHECKED(aclrtSetDevice(0));
    UNCHECKED(aclrtCreateStream(&stream));
    CHECKED(aclrtMallocHost((void **)&source, MEMORY_SIZE_BYTES));
    CHECKED(aclrtMallocHost((void **)&destination, MEMORY_SIZE_BYTES));
    *source = SOURCE_VALUE;
    printf("Source data: %d\n", *source);
    CHECKED(aclrtMemcpy(destination, MEMORY_SIZE_BYTES, source, MEMORY_SIZE_BYTES, ACL_MEMCPY_HOST_TO_HOST));
    printf("Destination data: %d\n", *destination);
    UNCHECKED(aclrtDestroyStreamForce(stream));
    UNCHECKED(aclrtFreeHost(source));
    UNCHECKED(aclrtFreeHost(destination));
    UNCHECKED(aclrtResetDeviceForce(0));
    UNCHECKED(aclFinalize());
    return 0;
}
