/* Macros of every sample: a call that must succeed, and a call whose result the vendor's sample ignores. */
#ifndef CAMEM_TEST_SAMPLE_H
#define CAMEM_TEST_SAMPLE_H

#include <stdio.h>
#include <stdlib.h>

#include "../../support/acl.h"

enum { MEMORY_SIZE_BYTES = 1024 * 1024, SOURCE_VALUE = 123 };

#define CHECKED(call)                                         \
    do {                                                      \
        aclError checkedCode = (call);                        \
        if (checkedCode != ACL_SUCCESS) {                     \
            fprintf(stderr, "%s failed: %d\n", #call, checkedCode); \
            exit(1);                                          \
        }                                                     \
    } while (0)

/* The program continues like the vendor's; the test sees the line on stderr. */
#define UNCHECKED(call)                                          \
    do {                                                         \
        aclError uncheckedCode = (call);                         \
        if (uncheckedCode != ACL_SUCCESS) fprintf(stderr, "%s returned %d\n", #call, uncheckedCode); \
    } while (0)

#endif
