//! aclInit and aclFinalize.

const acl = @import("acl");
const config = @import("../config.zig");
const errors = @import("../errors.zig");
const initialization = @import("../initialization.zig");
const lock = @import("../lock.zig");

pub fn aclInit(config_path: ?[*:0]const u8) acl.Error {
    const problem = config.check();
    if (problem != acl.code.success) return problem;
    lock.enter();
    defer lock.leave();
    if (initialization.references == 0) return initialization.begin(config_path);
    initialization.references += 1;
    return acl.code.repeat_initialize;
}

/// Ends the initialisation however often aclInit was called. Before any aclInit it succeeds once, as in the runtime.
pub fn aclFinalize() acl.Error {
    lock.enter();
    defer lock.leave();
    if (initialization.finalized) return errors.fail(acl.code.repeat_finalize, "finalized already");
    initialization.end();
    return acl.code.success;
}

pub fn aclFinalizeReference(reference_count: ?*u64) acl.Error {
    lock.enter();
    defer lock.leave();
    var code = acl.code.success;
    switch (initialization.references) {
        0 => code = errors.fail(acl.code.repeat_finalize, "not initialised"),
        1 => initialization.end(),
        else => initialization.references -= 1,
    }
    if (reference_count) |count| count.* = initialization.references;
    return code;
}
