//! Notices that the program is asked to end while its calls wait at the gate: a server that waits for its requests
//! would never end, since they wait for a wake-up. Only while calls wait, the library's handler stands in front of the
//! program's own for SIGTERM and SIGINT.

const std = @import("std");
const core = @import("core");
const gate = @import("gate.zig");

const Action = std.c.Sigaction;
const Signal = std.c.SIG;

const signals = [_]Signal{ .TERM, .INT };

var mutex: core.sync.Mutex = .{};
var waiting: u32 = 0;
/// The program's own, by signal.
var before: [signals.len]Action = undefined;
var is_replaced: [signals.len]bool = @splat(false);

/// A call begins to wait.
pub fn beginWait() void {
    mutex.lock();
    defer mutex.unlock();
    waiting += 1;
    if (waiting == 1) for (0..signals.len) |index| replace(index);
}

/// A call no longer waits.
pub fn endWait() void {
    mutex.lock();
    defer mutex.unlock();
    waiting -= 1;
    if (waiting == 0) for (0..signals.len) |index| restore(index);
}

/// A signal without a handler of the program's does what it does.
fn replace(index: usize) void {
    var found: Action = undefined;
    if (std.c.sigaction(signals[index], null, &found) != 0) return;
    const handler = found.handler.handler orelse return;
    if (handler == std.c.SIG.IGN or isOurs(&found)) return;
    before[index] = found;
    var ours = found;
    ours.handler = .{ .sigaction = &onSignal };
    ours.flags |= std.c.SA.SIGINFO;
    is_replaced[index] = std.c.sigaction(signals[index], &ours, null) == 0;
}

/// Unless the program has installed another meanwhile.
fn restore(index: usize) void {
    if (!is_replaced[index]) return;
    is_replaced[index] = false;
    var found: Action = undefined;
    if (std.c.sigaction(signals[index], null, &found) != 0 or !isOurs(&found)) return;
    _ = std.c.sigaction(signals[index], &before[index], null);
}

fn isOurs(action: *const Action) bool {
    return action.handler.sigaction == &onSignal;
}

/// Makes only calls that a signal handler may make.
fn onSignal(signal: Signal, info: *const std.c.siginfo_t, context: ?*anyopaque) callconv(.c) void {
    gate.terminate();
    const index = std.mem.indexOfScalar(Signal, &signals, signal) orelse return;
    const own = &before[index];
    if (own.flags & std.c.SA.SIGINFO != 0) {
        if (own.handler.sigaction) |handler| handler(signal, info, context);
    } else if (own.handler.handler) |handler| handler(signal);
}

/// In a child of fork(), where no call waits.
pub fn forget() void {
    mutex = .{};
    if (waiting > 0) for (0..signals.len) |index| restore(index);
    waiting = 0;
}
