/*
 * A program that knows nothing of camem. Without an argument it times AscendCL calls, one line a figure: name, size and value. With
 * a number of bytes it writes that much device memory, says "ready", and ends with its input.
 */
#include "../../test/support/acl.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void check(aclError code, const char *what) {
    if (code == 0) return;
    fprintf(stderr, "%s: %d\n", what, code);
    exit(1);
}

static int ascending(const void *a, const void *b) {
    uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;
    return first < second ? -1 : first > second;
}

static uint64_t median(uint64_t *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
}

enum { ROUNDS = 301, BATCH = 20000 };

static void time_malloc(size_t size) {
    static uint64_t allocating[ROUNDS], freeing[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        void *pointer;
        uint64_t begun = now();
        check(aclrtMalloc(&pointer, size, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
        allocating[i] = now() - begun;
        begun = now();
        check(aclrtFree(pointer), "aclrtFree");
        freeing[i] = now() - begun;
    }
    printf("malloc %zu %llu\n", size, (unsigned long long)median(allocating, ROUNDS));
    printf("free %zu %llu\n", size, (unsigned long long)median(freeing, ROUNDS));
}

/* A copy of no bytes: all that it costs is the call. */
static void time_call(void) {
    static uint64_t rounds[ROUNDS];
    char from = 0, to;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t begun = now();
        for (int j = 0; j < BATCH; j++) check(aclrtMemcpy(&to, 1, &from, 0, ACL_MEMCPY_HOST_TO_HOST), "aclrtMemcpy");
        rounds[i] = (now() - begun) * 1000 / BATCH;
    }
    printf("call_ps 0 %llu\n", (unsigned long long)median(rounds, ROUNDS));
}

/* Sizes as llama.cpp has them: weights, a cache, compute buffers, and many tiny constants. Device memory taken beyond them. */
static void measure_waste(void) {
    size_t before, after, total, wanted = 0;
    void *pointer;
    check(aclrtGetMemInfo(ACL_HBM_MEM, &before, &total), "aclrtGetMemInfo");
    size_t large[] = {(size_t)345 << 20, (size_t)96 << 20, ((size_t)300 << 20) + 12345, (size_t)8 << 20};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        check(aclrtMalloc(&pointer, large[i], ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
        wanted += large[i];
    }
    for (int i = 0; i < 200; i++) {
        size_t size = (size_t)64 << (i % 10);
        check(aclrtMalloc(&pointer, size, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
        wanted += size;
    }
    check(aclrtGetMemInfo(ACL_HBM_MEM, &after, &total), "aclrtGetMemInfo");
    printf("waste_ppm 0 %llu\n", (unsigned long long)((before - after - wanted) * 1000000 / wanted));
}

enum { SEGMENT = 32 << 20 };

static int hold(size_t size) {
    char *content = malloc(SEGMENT);
    if (content == NULL) return 1;
    memset(content, 7, SEGMENT);
    for (size_t held = 0; held < size; held += SEGMENT) {
        void *pointer;
        check(aclrtMalloc(&pointer, SEGMENT, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
        check(aclrtMemcpy(pointer, SEGMENT, content, SEGMENT, ACL_MEMCPY_HOST_TO_DEVICE), "aclrtMemcpy");
    }
    puts("ready");
    fflush(stdout);
    return getchar() != EOF;
}

int main(int count, char **arguments) {
    check(aclInit(NULL), "aclInit");
    check(aclrtSetDevice(0), "aclrtSetDevice");
    if (count > 1) return hold(strtoull(arguments[1], NULL, 10));
    void *first; /* the library starts with the first allocation */
    check(aclrtMalloc(&first, 100, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
    for (size_t size = 64; size <= (size_t)64 << 20; size *= 16) time_malloc(size);
    time_call();
    measure_waste();
    return 0;
}
