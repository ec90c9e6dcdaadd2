/* The harness of the conformance program. Checks come in groups, and each group runs in a fresh process: the state that AscendCL
 * keeps per process (initialisation, devices, reservations) cannot leak into the next group, and a crash or a hang is one named
 * failure. The name of a check starts with the section of the facts sheet that it checks. */
#ifndef CAMEM_TEST_CONFORMANCE_H
#define CAMEM_TEST_CONFORMANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Weak functions: the check of exports names a missing one, instead of a link error. */
#define ACL_FUNCTION extern __attribute__((weak))
#include "../../support/acl.h"

#define KIB ((size_t)1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define GRANULE (2 * MIB)
/* The window that the driver of Atlas A2 and A3 chooses reserved addresses from. */
#define WINDOW_START ((uintptr_t)0x100000000000)
#define WINDOW_END ((uintptr_t)0x180000000000)

struct group {
    const char *name;
    void (*run)(void);
};

extern const struct group init_groups[];
extern const struct group device_groups[];
extern const struct group stream_groups[];
extern const struct group memory_groups[];
extern const struct group copy_groups[];
extern const struct group physical_groups[];
extern const struct group mapping_groups[];
extern const struct group sharing_groups[];

void check(const char *name, long expected, long got);
void check_either(const char *name, long first, long second, long got);
void check_error(const char *name, long got);
void check_true(const char *name, bool holds);

#define EXPECT(name, expected, call) check((name), (long)(expected), (long)(call))
/* For calls that the rest of a group depends on. */
#define REQUIRE(call) require(#call, (long)(call))
void require(const char *call, long got);

/* Runs on a new thread, which has no current context. */
void on_new_thread(void (*run)(void));
void sleep_ms(long durationMs);

void open_device(void);
void close_device(void);
uint32_t device_count(void);

/* Whether every byte has this value. */
bool all_bytes(const uint8_t *bytes, size_t sizeBytes, uint8_t value);

/* Queues work that blocks a stream until the gate opens. */
void block_stream(aclrtStream stream);
void open_gate(void);
void open_gate_after(long delayMs);

/* A second process that runs `run`, and a channel to it in both directions. */
struct peer {
    int pid;
    int channel;
};
struct peer start_peer(void (*run)(int channel));
void finish_peer(struct peer peer);
void channel_send(int channel, const void *bytes, size_t sizeBytes);
void channel_receive(int channel, void *bytes, size_t sizeBytes);

#endif
