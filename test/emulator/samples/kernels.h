/* The vendor's samples launch two kernels; without a compiler for the device they are host functions put on the stream.
 * They keep a kernel's place in the stream order. They read device memory with the CPU, which only the emulator allows. */
#ifndef CAMEM_TEST_KERNELS_H
#define CAMEM_TEST_KERNELS_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../../support/acl.h"

struct kernel_args {
    int *data;
    int value;
};

static atomic_int kernels_pending;

static inline void write_kernel(void *raw) {
    struct kernel_args *args = raw;
    args->data[0] = args->value;
    printf("Source data: %d\n", args->value);
    fflush(stdout);
    free(args);
    atomic_fetch_sub(&kernels_pending, 1);
}

static inline void read_kernel(void *raw) {
    struct kernel_args *args = raw;
    printf("Destination data: %d\n", args->data[0]);
    fflush(stdout);
    free(args);
    atomic_fetch_sub(&kernels_pending, 1);
}

static inline void launch_kernel(aclrtStream stream, void (*kernel)(void *), int *data, int value) {
    struct kernel_args *args = malloc(sizeof(*args));
    if (args == NULL) {
        fprintf(stderr, "no memory for a kernel's arguments\n");
        exit(1);
    }
    *args = (struct kernel_args){.data = data, .value = value};
    atomic_fetch_add(&kernels_pending, 1);
    aclError code = aclrtLaunchHostFunc(stream, kernel, args);
    if (code != ACL_SUCCESS) {
        fprintf(stderr, "aclrtLaunchHostFunc failed: %d\n", code);
        exit(1);
    }
}

static inline void write_do(aclrtStream stream, int *data, int value) { launch_kernel(stream, write_kernel, data,
                                                                                      value); }

static inline void read_do(aclrtStream stream, int *data) { launch_kernel(stream, read_kernel, data, 0); }

/* Where a vendor's sample lets a call race with a kernel and counts on the kernel's speed, ours waits for it, without a
 * call to AscendCL, so that the order of those calls stays the sample's and the outcome does not hang on the scheduler. */
static inline void let_kernels_finish(void) {
    for (int waitedMs = 0; atomic_load(&kernels_pending) > 0; waitedMs += 1) {
        if (waitedMs >= 20000) {
            fprintf(stderr, "a kernel has not finished within 20 s\n");
            exit(1);
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

#endif
