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
