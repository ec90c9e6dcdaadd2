//! Starts this library's threads. They are detached, ignore the process's signals, and keep the library loaded.

const std = @import("std");

const DlInfo = extern struct { path: ?[*:0]const u8, base: ?*anyopaque, symbol: ?[*:0]const u8, address: ?*anyopaque };
extern "c" fn dladdr(address: *const anyopaque, info: *DlInfo) c_int;
extern "c" fn dlopen(path: [*:0]const u8, mode: c_int) ?*anyopaque;
extern "c" fn pthread_sigmask(how: c_int, set: *const std.c.sigset_t, old: ?*std.c.sigset_t) c_int;

const rtld_lazy = 0x1;
const rtld_noload = 0x4;
const rtld_nodelete = 0x1000;
const sig_setmask = 2;

pub const Entry = *const fn (?*anyopaque) callconv(.c) ?*anyopaque;

pub fn start(entry: Entry, argument: ?*anyopaque) bool {
    keepLoaded();
    var blocked: std.c.sigset_t = undefined;
    var previous: std.c.sigset_t = undefined;
    _ = std.c.sigfillset(&blocked);
    // A fault in a host function must reach the program's own handler.
    for ([_]std.c.SIG{ .SEGV, .BUS, .FPE, .ILL, .TRAP, .ABRT }) |signal| _ = std.c.sigdelset(&blocked, signal);
    _ = pthread_sigmask(sig_setmask, &blocked, &previous);
    defer _ = pthread_sigmask(sig_setmask, &previous, null);
    var thread: std.c.pthread_t = undefined;
    if (std.c.pthread_create(&thread, null, entry, argument) != .SUCCESS) return false;
    _ = std.c.pthread_detach(thread);
    return true;
}

/// Without this, dlclose would unmap the code of a running thread.
fn keepLoaded() void {
    var info: DlInfo = undefined;
    if (dladdr(@ptrCast(&start), &info) == 0) return;
    _ = dlopen(info.path orelse return, rtld_lazy | rtld_noload | rtld_nodelete);
}
