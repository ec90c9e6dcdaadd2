/* After the vendor's memory sample 7, the importer: says who it is, then imports, maps and reads. */
#include "sharing.h"

int main(void) {
    aclrtStream stream = NULL;
    UNCHECKED(aclInit(NULL));
    UNCHECKED(aclrtSetDevice(0));
    UNCHECKED(aclrtCreateStream(&stream));
    return sharing_import(true, stream);
}
