/* Copies at the full speed of the processor or of the device's copy engines. */

#include "loops.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { MOST_LANES = 16 };

/* Large enough to hide the cost of starting a copy, small enough that the lanes end together. */
#define LARGEST_PIECE_BYTES ((uint64_t)16 << 20)
#define SMALLEST_PIECE_BYTES ((uint64_t)1 << 20)
#define PIECES_PER_LANE 8
/* A piece of a file fits into a core's cache, so the copy to the device does not read it from memory again. */
#define FILE_PIECE_BYTES ((uint64_t)1 << 20)

typedef struct {
    const loops_range *ranges;
    uint64_t count;
    char *host;
    uint64_t host_size;
    bool to_host;
    int by;
    int file;
    uint64_t lanes;
    uint64_t total_bytes;
    uint64_t piece_bytes;
    /* The first piece that no lane has taken yet. */
    atomic_uint_fast64_t next;
    aclrtStream streams[MOST_LANES];
    atomic_uint ready;
    atomic_bool go;
} copy_job;

typedef struct {
    copy_job *job;
    uint64_t number;
    uint64_t ended;
    uint64_t running;
    aclError code;
} lane;

/* The copy instruction is fastest for large pieces. The emulator uses it too. */
static void move(void *to, const void *from, uint64_t bytes) {
#if defined(__x86_64__)
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
#else
    memcpy(to, from, bytes);
#endif
}

static aclError copy_piece(const lane *on, void *device, uint64_t position, uint64_t bytes) {
    copy_job *job = on->job;
    char *host = job->host + position % job->host_size;
    void *to = job->to_host ? (void *)host : device;
    void *from = job->to_host ? device : (void *)host;
    aclrtMemcpyKind kind = job->to_host ? ACL_MEMCPY_DEVICE_TO_HOST : ACL_MEMCPY_HOST_TO_DEVICE;
    if (job->by == LOOPS_BY_STREAMS) return acl.memcpyAsync(to, bytes, from, bytes, kind, job->streams[on->number]);
    move(to, from, bytes);
    return ACL_SUCCESS;
}

static aclError copy_file_piece(const lane *on, void *device, uint64_t position, uint64_t bytes) {
    copy_job *job = on->job;
    char *staging = job->host + on->number * job->piece_bytes;
    for (uint64_t done = 0; done < bytes;) {
        ssize_t length = pread(job->file, staging + done, bytes - done, (off_t)(position + done));
        if (length <= 0) return ACL_ERROR_INVALID_FILE;
        done += (uint64_t)length;
    }
    return acl.memcpy(device, bytes, staging, bytes, ACL_MEMCPY_HOST_TO_DEVICE);
}

static uint64_t min(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Copies bytes `from` to `to` of the concatenated ranges. A part ends where its range or the host memory ends. */
static aclError copy_bytes(const lane *on, uint64_t from, uint64_t to) {
    copy_job *job = on->job;
    uint64_t range_start = 0;
    for (uint64_t index = 0; index < job->count && range_start < to; range_start += job->ranges[index++].size) {
        uint64_t range_end = min(range_start + job->ranges[index].size, to);
        uint64_t position = from > range_start ? from : range_start;
        while (position < range_end) {
            bool is_file = job->file >= 0;
            uint64_t bytes = range_end - position;
            if (!is_file) bytes = min(bytes, job->host_size - position % job->host_size);
            void *device = (char *)job->ranges[index].address + (position - range_start);
            LOOPS_TRY(is_file ? copy_file_piece(on, device, position, bytes) : copy_piece(on, device, position, bytes));
            position += bytes;
        }
    }
    return ACL_SUCCESS;
}

static aclError copy_nth_piece(const lane *on, uint64_t piece) {
    uint64_t from = piece * on->job->piece_bytes;
    return copy_bytes(on, from, min(from + on->job->piece_bytes, on->job->total_bytes));
}

static uint64_t pieces_of(const copy_job *job) { return (job->total_bytes + job->piece_bytes - 1) / job->piece_bytes; }

/* A free lane takes the next piece, so no lane waits for another at the end. */
static aclError copy_remaining_pieces(const lane *on) {
    uint64_t pieces = pieces_of(on->job);
    uint64_t piece;
    while ((piece = atomic_fetch_add(&on->job->next, 1)) < pieces) LOOPS_TRY(copy_nth_piece(on, piece));
    return ACL_SUCCESS;
}

static void *run_thread(void *argument) {
    lane *on = argument;
    if (on->job->file >= 0) on->code = acl.setDevice(loops_device);
    atomic_fetch_add(&on->job->ready, 1);
    while (!atomic_load(&on->job->go)) continue;
    uint64_t before = loops_now(CLOCK_THREAD_CPUTIME_ID);
    if (on->code == ACL_SUCCESS) on->code = copy_remaining_pieces(on);
    on->ended = loops_now(CLOCK_MONOTONIC);
    on->running = loops_now(CLOCK_THREAD_CPUTIME_ID) - before;
    if (on->job->file >= 0) acl.resetDevice(loops_device);
    return NULL;
}

/* The clock starts once all threads run, as the threads of a device's streams already do. */
static int run_by_threads(copy_job *job, uint64_t *nanoseconds, uint64_t *running_nanoseconds) {
    pthread_t threads[MOST_LANES];
    lane lanes[MOST_LANES];
    uint64_t started = 0;
    for (; started < job->lanes; started++) {
        lanes[started] = (lane){.job = job, .number = started};
        if (pthread_create(&threads[started], NULL, run_thread, &lanes[started]) != 0) break;
    }
    while (atomic_load(&job->ready) < started) usleep(50);
    uint64_t begun = loops_now(CLOCK_MONOTONIC);
    uint64_t ended = begun;
    atomic_store(&job->go, true);
    int code = started == job->lanes ? 0 : -1;
    *running_nanoseconds = 0;
    for (uint64_t number = 0; number < started; number++) {
        pthread_join(threads[number], NULL);
        if (code == 0) code = lanes[number].code;
        if (lanes[number].ended > ended) ended = lanes[number].ended;
        *running_nanoseconds += lanes[number].running;
    }
    *nanoseconds = ended - begun;
    return code;
}

static int run_by_streams(copy_job *job, uint64_t *nanoseconds) {
    for (uint64_t number = 0; number < job->lanes; number++) LOOPS_TRY(acl.createStream(&job->streams[number]));
    uint64_t begun = loops_now(CLOCK_MONOTONIC);
    for (uint64_t piece = 0; piece < pieces_of(job); piece++) {
        lane on = {.job = job, .number = piece % job->lanes};
        LOOPS_TRY(copy_nth_piece(&on, piece));
    }
    for (uint64_t number = 0; number < job->lanes; number++) LOOPS_TRY(acl.synchronizeStream(job->streams[number]));
    *nanoseconds = loops_now(CLOCK_MONOTONIC) - begun;
    for (uint64_t number = 0; number < job->lanes; number++) LOOPS_TRY(acl.destroyStream(job->streams[number]));
    return 0;
}

void *loops_host_create(uint64_t size) {
    void *host = NULL;
    return acl.mallocHost(&host, size) == ACL_SUCCESS ? host : NULL;
}

int loops_host_destroy(void *host) { return acl.freeHost(host); }

static void set_work(copy_job *job, const loops_range *ranges, uint64_t count, uint64_t lanes) {
    job->ranges = ranges;
    job->count = count;
    job->lanes = min(lanes, MOST_LANES);
    for (uint64_t index = 0; index < count; index++) job->total_bytes += ranges[index].size;
    uint64_t even = job->total_bytes / (job->lanes * PIECES_PER_LANE);
    job->piece_bytes = even < SMALLEST_PIECE_BYTES ? SMALLEST_PIECE_BYTES : min(even, LARGEST_PIECE_BYTES);
}

int loops_copy(const loops_range *ranges, uint64_t count, void *host, uint64_t host_size, int to_host, int by,
               uint64_t lanes, uint64_t *nanoseconds, uint64_t *running_nanoseconds) {
    copy_job job = {.host = host, .host_size = host_size, .to_host = to_host, .by = by, .file = -1};
    set_work(&job, ranges, count, lanes);
    if (by == LOOPS_BY_THREADS) return run_by_threads(&job, nanoseconds, running_nanoseconds);
    *running_nanoseconds = 0;
    return run_by_streams(&job, nanoseconds);
}

int loops_copy_file(int file, const loops_range *ranges, uint64_t count, void *staging, uint64_t staging_size,
                    uint64_t lanes, uint64_t *nanoseconds) {
    copy_job job = {.host = staging, .host_size = staging_size, .by = LOOPS_BY_THREADS, .file = file};
    set_work(&job, ranges, count, lanes);
    job.piece_bytes = min(staging_size / job.lanes, FILE_PIECE_BYTES);
    uint64_t ignored;
    return run_by_threads(&job, nanoseconds, &ignored);
}

int loops_forget_file(int file) { return posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED); }

static copy_job background;
static pthread_t background_thread;
static atomic_int background_ended;

static void *run_background(void *argument) {
    uint64_t ignored[2];
    run_by_threads(argument, &ignored[0], &ignored[1]);
    atomic_store(&background_ended, 1);
    return NULL;
}

int loops_copy_begin(const loops_range *ranges, uint64_t count, void *host, uint64_t host_size, int to_host,
                     uint64_t lanes) {
    memset(&background, 0, sizeof background);
    background.host = host;
    background.host_size = host_size;
    background.to_host = to_host;
    background.file = -1;
    set_work(&background, ranges, count, lanes);
    atomic_store(&background_ended, 0);
    return pthread_create(&background_thread, NULL, run_background, &background);
}

int loops_copy_poll(void) {
    if (!atomic_load(&background_ended)) return 0;
    pthread_join(background_thread, NULL);
    return 1;
}
