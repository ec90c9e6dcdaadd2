/* Stands in for an operator library: its operator sets the first byte of its workspace to the workspace's size. With 0 it takes a while,
 * and then unmaps its workspace. */
#include "../../support/acl.h"
#include <unistd.h>

int aclnnAdd(void *workspace, uint64_t workspaceSize, void *executor, aclrtStream stream) {
    (void)executor;
    (void)stream;
    if (workspaceSize == 0) {
        usleep(100000);
        return aclrtUnmapMem(workspace);
    }
    return aclrtMemset(workspace, 1, (int)workspaceSize, 1);
}

/* Stand-ins that tell whether they were given all of their parameters. */

int aclopExecuteV2(const char *opType, int numInputs, void *inputDesc[], void *inputs[], int numOutputs,
                   void *outputDesc[], void *outputs[], void *attr, aclrtStream stream) {
    (void)opType, (void)numInputs, (void)inputDesc, (void)inputs, (void)numOutputs, (void)outputDesc;
    (void)outputs, (void)attr;
    return (int)(uintptr_t)stream;
}

int aclrtRandomNumAsync(const void *taskInfo, const aclrtStream stream, void *reserve) {
    (void)taskInfo, (void)stream;
    return (int)(uintptr_t)reserve;
}
