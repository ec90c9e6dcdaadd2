//! Starts the library at the first call that matters, and ends it with AscendCL. Before that it has no thread, opens
//! no file and changes nothing in the process.

const std = @import("std");
const core = @import("core");
const program_memory = core.program_memory;
const contexts = @import("contexts.zig");
const control = @import("control.zig");
const gate = @import("gate.zig");
const handles = @import("handles.zig");
const memory = @import("memory.zig");
const owed = @import("owed.zig");
const own_wake_ups = @import("own_wake_ups.zig");
const real = @import("real.zig");
const refusal = @import("refusal.zig");
const settings = @import("settings.zig");
const small = @import("small.zig");
const termination = @import("termination.zig");
const acl = @import("acl");
const Failure = core.status.Failure;
const Session = core.session.Session;

var mutex: core.sync.Mutex = .{};
var opened: std.atomic.Value(?*Session) = .init(null);
var registered = false;
/// Why the last start failed.
var failure: Failure = .{};

const beside_runtime: core.runtime.Beside = .{
    .createContext = &createContext,
    .destroyContext = &destroyContext,
    .synchronize = &contexts.synchronize,
};

const beside_memory: core.vmm.Beside = .{ .mapNoAccess = &mapNoAccess, .setAccess = &setAccess };

/// The session, or null where the library has not started.
pub fn current() ?*Session {
    return opened.load(.acquire);
}

/// The session, opened if need be. Null where AscendCL is not loaded or cannot do what the library needs: then the
/// program uses AscendCL as if the library were not there.
pub fn session() ?*Session {
    return current() orelse open();
}

fn open() ?*Session {
    mutex.lock();
    defer mutex.unlock();
    if (current()) |started| return started;
    register();
    const started = openSession() catch {
        gate.start();
        return null;
    };
    opened.store(started, .release);
    gate.start();
    return started;
}

fn openSession() core.status.Error!*Session {
    var report: core.loader.Report = .{};
    const library = try core.loader.fromSymbols(Symbols{}, "the library that the program has loaded", &report);
    const beside: Session.Beside = .{
        .runtime = &beside_runtime,
        .memory = &beside_memory,
        .guard = .{ .close = &closeGate, .open = &settleGate },
    };
    const started = core.attach.openBeside(library, beside, &failure) catch |err| switch (err) {
        error.Busy => blk: { // an earlier one could not be closed
            try closeSession();
            break :blk try core.attach.openBeside(library, beside, &failure);
        },
        else => return err,
    };
    settings.load();
    settings.apply(started);
    control.start();
    return started;
}

const Symbols = struct {
    pub fn find(_: Symbols, comptime name: [:0]const u8) ?*anyopaque {
        return @ptrCast(@constCast(real.function(name, anyopaque)));
    }
};

fn register() void {
    if (registered) return;
    registered = true;
    _ = __register_atfork(&beforeFork, &afterForkInParent, &afterFork, null);
    _ = atexit(&atExit);
}

/// What pthread_atfork is made of: that name is no symbol of every glibc.
extern "c" fn __register_atfork(
    prepare: ?*const fn () callconv(.c) void,
    parent: ?*const fn () callconv(.c) void,
    child: ?*const fn () callconv(.c) void,
    object: ?*anyopaque,
) c_int;
extern "c" fn atexit(function: *const fn () callconv(.c) void) c_int;

fn beforeFork() callconv(.c) void {
    core.control_server.beforeFork();
}

fn afterForkInParent() callconv(.c) void {
    core.control_server.afterFork(false);
}

/// A child has the parent's records, but none of its threads and none of its device memory.
fn afterFork() callconv(.c) void {
    core.control_server.afterFork(true);
    mutex = .{};
    opened.store(null, .release);
    core.attach.forget();
    memory.forget();
    handles.forget();
    small.forget();
    contexts.forget();
    owed.forget();
    own_wake_ups.forget();
    termination.forget();
    gate.forget();
}

fn atExit() callconv(.c) void {
    gate.end();
    core.control_server.stop();
}

/// Before AscendCL ends: cancels what runs and gives everything back.
pub fn close() void {
    mutex.lock();
    defer mutex.unlock();
    if (current() == null) return;
    opened.store(null, .release);
    core.control_server.endSession();
    closeSession() catch |err| noteFailure(err);
    gate.stop();
}

/// A second attempt gives back what a call refused once.
fn closeSession() core.status.Error!void {
    core.attach.closeBeside(&failure) catch return core.attach.closeBeside(&failure);
}

/// The next start tries again.
fn noteFailure(_: core.status.Error) void {}

fn closeGate(interrupt: core.sync.Interrupt, _: *Failure) core.status.Error!void {
    try gate.close(interrupt);
    const started = current() orelse return;
    if (program_memory.takeOutdated(&started.registry)) return error.Moving;
}

fn settleGate() void {
    const started = current() orelse return gate.start();
    gate.settle(program_memory.isAnyAsleep(&started.registry));
    // The last memory that was asleep may have been freed since it was looked at.
    gate.settleAfterFree(started);
}

fn createContext(context: *acl.Context, device: i32) callconv(.c) acl.Error {
    const Call = fn (*acl.Context, i32) callconv(.c) acl.Error;
    const call = real.function("aclrtCreateContext", Call) orelse return refusal.missing;
    return call(context, device);
}

fn destroyContext(context: acl.Context) callconv(.c) acl.Error {
    const call = real.function("aclrtDestroyContext", fn (acl.Context) callconv(.c) acl.Error) orelse
        return refusal.missing;
    return call(context);
}

fn mapNoAccess(
    address: *anyopaque,
    size: usize,
    offset: usize,
    handle: acl.DrvMemHandle,
    flags: u64,
) callconv(.c) acl.Error {
    const Call = fn (*anyopaque, usize, usize, acl.DrvMemHandle, u64) callconv(.c) acl.Error;
    const call = real.function("aclrtMemMapNoAccess", Call) orelse return refusal.missing;
    return call(address, size, offset, handle, flags);
}

fn setAccess(address: *anyopaque, size: usize, access: *const acl.MemAccessDesc, count: usize) callconv(.c) acl.Error {
    const Call = fn (*anyopaque, usize, *const acl.MemAccessDesc, usize) callconv(.c) acl.Error;
    const call = real.function("aclrtMemSetAccess", Call) orelse return refusal.missing;
    return call(address, size, access, count);
}
