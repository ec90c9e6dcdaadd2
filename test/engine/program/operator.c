/* Stands in for an operator library: its operator sets the first byte of its workspace to the workspace's size. */
#include "../../support/acl.h"

int aclnnAdd(void *workspace, uint64_t workspaceSize, void *executor, aclrtStream stream) {
    (void)executor;
    (void)stream;
    return aclrtMemset(workspace, 1, (int)workspaceSize, 1);
}
