/* After the vendor's memory sample 9: one stream waits for a value in device memory that another writes a second later. */
#include <pthread.h>
#include <time.h>

#include "exchange.h"
#include "sample.h"

enum { AWAITED_VALUE = 100 };

static void *memory;
static aclrtStream waiting_stream;
static aclrtStream writing_stream;

static void *wait_for_value(void *unused) {
    (void)unused;
    int flag = 0;
    UNCHECKED(aclrtSetDevice(0));
    CHECKED(aclrtValueWait(memory, AWAITED_VALUE, ACL_STREAM_WAIT_VALUE_EQ, waiting_stream));
    CHECKED(aclrtSynchronizeStream(waiting_stream));
    FILE *file = fopen("file/flag.txt", "r");
    if (file == NULL || fscanf(file, "%d", &flag) != 1) {
        fprintf(stderr, "the waiting stream went on before the value was written\n");
        exit(1);
    }
    fclose(file);
    printf("Destination data: %d\n", flag);
    return NULL;
}

static void *write_value(void *unused) {
    (void)unused;
    exchange_write("file/flag.txt", "123\n", 4);
    printf("Source data: %d\n", SOURCE_VALUE);
    UNCHECKED(aclrtSetDevice(0));
    CHECKED(aclrtValueWrite(memory, AWAITED_VALUE, 0, writing_stream));
    CHECKED(aclrtSynchronizeStream(writing_stream));
    return NULL;
}

int main(void) {
    pthread_t waiter;
    pthread_t writer;
    UNCHECKED(aclInit(NULL));
    UNCHECKED(aclrtSetDevice(0));
    CHECKED(aclrtMalloc(&memory, MEMORY_SIZE_BYTES, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECKED(aclrtCreateStream(&waiting_stream));
    CHECKED(aclrtCreateStream(&writing_stream));
    pthread_create(&waiter, NULL, wait_for_value, NULL);
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    pthread_create(&writer, NULL, write_value, NULL);
    pthread_join(waiter, NULL);
    pthread_join(writer, NULL);
    UNCHECKED(aclrtDestroyStreamForce(waiting_stream));
    UNCHECKED(aclrtDestroyStreamForce(writing_stream));
    UNCHECKED(aclrtFree(memory));
    UNCHECKED(aclrtResetDeviceForce(0));
    UNCHECKED(aclFinalize());
    return 0;
}
