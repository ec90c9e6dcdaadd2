/* After the vendor's memory sample 8, the importer: its initialisation is checked, and it announces no pid. */
#include "sharing.h"

int main(void) {
    aclrtStream stream = NULL;
    CHECKED(aclInit(NULL));
    CHECKED(aclrtSetDevice(0));
    CHECKED(aclrtCreateStream(&stream));
    return sharing_import(false, stream);
}
