//! Failures of the program's own work that a wait of the library has taken. AscendCL reports each once, to whoever
//! waits first: the program's next wait that would succeed reports it instead.

const std = @import("std");
const acl = @import("acl");
const core = @import("core");

/// The latest code of each device; 0 without one.
var codes: [core.runtime.max_devices]std.atomic.Value(acl.Error) = @splat(.init(acl.code.success));
/// Whether there may be any.
var is_any: std.atomic.Value(bool) = .init(false);

/// A wait for a device has failed, while no copy of ours ran on it.
pub fn note(device: u32, code: acl.Error) void {
    if (device >= codes.len or !isOfWork(code)) return;
    codes[device].store(code, .release);
    is_any.store(true, .release);
}

/// Whether a code is that of a kernel or a copy that failed. With others the wait itself has failed, and takes nothing.
fn isOfWork(code: acl.Error) bool {
    const first_of_tasks = 507011;
    const last_of_tasks = 507057;
    return code >= first_of_tasks and code <= last_of_tasks and core.status.isFailedWait(code);
}

pub fn isAny() bool {
    return is_any.load(.acquire);
}

/// What a wait of the program on a device returns, when it has returned `code`.
pub fn resultOf(device: u32, code: acl.Error) acl.Error {
    if (code != acl.code.success or device >= codes.len) return code;
    return codes[device].swap(acl.code.success, .acq_rel);
}

/// In a child of fork().
pub fn forget() void {
    for (&codes) |*code| code.store(acl.code.success, .monotonic);
    is_any.store(false, .monotonic);
}
