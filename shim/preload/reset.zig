//! What the library does when the program lets go of a device, or of AscendCL: its memory there is gone.

const std = @import("std");
const core = @import("core");
const contexts = @import("contexts.zig");
const gate = @import("gate.zig");
const handles = @import("handles.zig");
const memory = @import("memory.zig");
const small = @import("small.zig");
const start = @import("start.zig");

/// The program has ended AscendCL and not begun it again.
pub var is_finalized: std.atomic.Value(bool) = .init(false);

const longest_wait_ns = 5 * std.time.ns_per_s;

/// The program holds nothing on a device any more. AscendCL closes it, and frees what is on it, once the library lets
/// go of it as well.
pub fn letGoOf(device: u32) void {
    const session = start.current() orelse return;
    memory.giveDetached(&session.registry, device);
    handles.drop(device);
    memory.drop(device);
    small.drop(device);
    session.executor.closeDevice(device, longest_wait_ns);
    gate.settleAfterFree(session);
}

pub fn closeAll() void {
    if (start.current()) |session| memory.giveDetached(&session.registry, null);
    handles.drop(null);
    memory.drop(null);
    small.drop(null);
    start.close();
}
