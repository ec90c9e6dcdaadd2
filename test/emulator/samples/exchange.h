/* Bytes handed between two processes through files below ./file, as the vendor's samples do. A file appears whole (it is
 * renamed into place), and no wait is longer than 20 s. */
#ifndef CAMEM_TEST_EXCHANGE_H
#define CAMEM_TEST_EXCHANGE_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

static inline void exchange_write(const char *path, const void *bytes, size_t sizeBytes) {
    char temporary[256];
    snprintf(temporary, sizeof(temporary), "%s.part", path);
    mkdir("file", 0777);
    FILE *file = fopen(temporary, "wb");
    if (file == NULL || fwrite(bytes, 1, sizeBytes, file) != sizeBytes || fclose(file) != 0 ||
        rename(temporary, path) != 0) {
        perror(path);
        exit(1);
    }
}

static inline void exchange_read(const char *path, void *bytes, size_t sizeBytes) {
    FILE *file = NULL;
    for (int waitedMs = 0; (file = fopen(path, "rb")) == NULL; waitedMs += 10) {
        if (waitedMs >= 20000) {
            fprintf(stderr, "%s has not appeared within 20 s\n", path);
            exit(1);
        }
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    if (fread(bytes, 1, sizeBytes, file) != sizeBytes) {
        fprintf(stderr, "%s is shorter than %zu bytes\n", path, sizeBytes);
        exit(1);
    }
    fclose(file);
}

#endif
