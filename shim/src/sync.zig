//! Threads and what they share. Any native thread may use all of it: foreign threads have no Zig runtime state.

const std = @import("std");
const heap = @import("heap.zig");
const linux = std.os.linux;

pub const Mutex = struct {
    inner: std.c.pthread_mutex_t = .{},

    pub fn lock(self: *Mutex) void {
        // POSIX has this fail only for mutexes that check who owns them, are robust, or were never initialised. So
        // for the rest.
        std.debug.assert(std.c.pthread_mutex_lock(&self.inner) == .SUCCESS);
    }

    pub fn unlock(self: *Mutex) void {
        std.debug.assert(std.c.pthread_mutex_unlock(&self.inner) == .SUCCESS);
    }
};

pub const Condition = struct {
    inner: std.c.pthread_cond_t = .{},

    pub fn wait(self: *Condition, mutex: *Mutex) void {
        std.debug.assert(std.c.pthread_cond_wait(&self.inner, &mutex.inner) == .SUCCESS);
    }

    pub fn broadcast(self: *Condition) void {
        std.debug.assert(std.c.pthread_cond_broadcast(&self.inner) == .SUCCESS);
    }
};

pub const Thread = struct {
    handle: std.c.pthread_t,

    /// Of address space; as much as Zig's own threads have.
    const stack_bytes = 16 << 20;

    /// Runs `body` with `arguments` on a new thread, which the caller joins. `std.Thread` ends the process on some
    /// codes of `pthread_create`; here each is a failure.
    pub fn spawn(comptime body: anytype, arguments: anytype) error{OutOfHostMemory}!Thread {
        const Arguments = @TypeOf(arguments);
        const entry = struct {
            fn run(opaque_arguments: ?*anyopaque) callconv(.c) ?*anyopaque {
                const given: *Arguments = @ptrCast(@alignCast(opaque_arguments));
                const own = given.*;
                heap.allocator.destroy(given);
                @call(.auto, body, own);
                return null;
            }
        };
        const given = heap.allocator.create(Arguments) catch return error.OutOfHostMemory;
        errdefer heap.allocator.destroy(given);
        given.* = arguments;
        var attributes: std.c.pthread_attr_t = undefined;
        if (std.c.pthread_attr_init(&attributes) != .SUCCESS) return error.OutOfHostMemory;
        defer _ = std.c.pthread_attr_destroy(&attributes);
        if (std.c.pthread_attr_setstacksize(&attributes, stack_bytes) != .SUCCESS) return error.OutOfHostMemory;
        const signals = blockSignals();
        defer _ = linux.sigprocmask(linux.SIG.SETMASK, &signals, null);
        var handle: std.c.pthread_t = undefined;
        if (std.c.pthread_create(&handle, &attributes, entry.run, given) != .SUCCESS) return error.OutOfHostMemory;
        return .{ .handle = handle };
    }

    /// A thread of the library never runs a handler of the program's: it inherits this mask. Returns the old mask.
    fn blockSignals() linux.sigset_t {
        var blocked = linux.sigfillset();
        // Faults of its own, and what glibc needs for setuid() and for ending a thread.
        for ([_]linux.SIG{ .SEGV, .BUS, .FPE, .ILL, .TRAP }) |signal| linux.sigdelset(&blocked, signal);
        for ([_]u32{ 32, 33 }) |signal| linux.sigdelset(&blocked, @enumFromInt(signal));
        var old = linux.sigemptyset();
        _ = linux.sigprocmask(linux.SIG.SETMASK, &blocked, &old);
        return old;
    }

    pub fn join(self: Thread) void {
        _ = std.c.pthread_join(self.handle, null); // fails only for a thread that was joined before, or is this one
    }
};

/// Whether a thread of this process has not ended.
pub fn isThreadAlive(thread: linux.pid_t) bool {
    const process: usize = @intCast(linux.getpid());
    const no_signal = 0;
    return linux.errno(linux.syscall3(.tgkill, process, @intCast(thread), no_signal)) != .SRCH;
}

/// A word of each thread. Not `threadlocal`: glibc allocates such variables of a library that is opened at run time
/// when a thread first uses them, and ends the process when it cannot.
pub const PerThread = struct {
    key: std.c.pthread_key_t,

    pub fn create() error{OutOfHostMemory}!PerThread {
        var key: std.c.pthread_key_t = undefined;
        if (std.c.pthread_key_create(&key, null) != .SUCCESS) return error.OutOfHostMemory;
        return .{ .key = key };
    }

    pub fn delete(self: PerThread) void {
        _ = std.c.pthread_key_delete(self.key);
    }

    /// 0 in a thread that has not set it.
    pub fn get(self: PerThread) usize {
        return @intFromPtr(std.c.pthread_getspecific(self.key));
    }

    pub fn set(self: PerThread, word: usize) error{OutOfHostMemory}!void {
        if (std.c.pthread_setspecific(self.key, @ptrFromInt(word)) != 0) return error.OutOfHostMemory;
    }
};

/// What makes a piece of a plan, or a wait, end early: its user, another piece that failed, or the time.
pub const Interrupt = struct {
    cancelled: ?*const std.atomic.Value(bool) = null,
    failed: ?*const std.atomic.Value(bool) = null,
    /// As `now` counts.
    deadline_ns: u64 = std.math.maxInt(u64),

    pub fn check(self: Interrupt) error{Aborted}!void {
        for ([_]?*const std.atomic.Value(bool){ self.cancelled, self.failed }) |flag| {
            if (flag) |set| if (set.load(.acquire)) return error.Aborted;
        }
        if (self.deadline_ns < std.math.maxInt(u64) and now() >= self.deadline_ns) return error.Aborted;
    }

    /// How long to wait before the next `check`: `most_ms`, less towards the deadline, and at least 1.
    pub fn waitMs(self: Interrupt, most_ms: u31) i32 {
        if (self.deadline_ns == std.math.maxInt(u64)) return most_ms;
        const left_ms = (self.deadline_ns -| now()) / std.time.ns_per_ms;
        return @intCast(std.math.clamp(left_ms, 1, most_ms));
    }
};

/// Waits while `word` is `value`, for at most `timeout_ns`; may return early for no reason.
pub fn waitWhile(word: *const std.atomic.Value(u32), value: u32, timeout_ns: u64) void {
    const timeout: linux.timespec = .{
        .sec = @intCast(timeout_ns / std.time.ns_per_s), // 64 bits of nanoseconds are 34 bits of seconds
        .nsec = @intCast(timeout_ns % std.time.ns_per_s),
    };
    _ = linux.futex_4arg(&word.raw, .{ .cmd = .WAIT, .private = true }, value, &timeout);
}

/// Wakes every thread in `waitWhile` on `word`.
pub fn wakeAll(word: *const std.atomic.Value(u32)) void {
    _ = linux.futex_3arg(&word.raw, .{ .cmd = .WAKE, .private = true }, std.math.maxInt(i32));
}

/// Returns after about `duration_ns`, or earlier when a signal arrives.
pub fn sleep(duration_ns: u64) void {
    const duration: linux.timespec = .{
        .sec = @intCast(duration_ns / std.time.ns_per_s),
        .nsec = @intCast(duration_ns % std.time.ns_per_s),
    };
    _ = linux.nanosleep(&duration, null);
}

/// Nanoseconds of the monotonic clock.
pub fn now() u64 {
    var time: std.c.timespec = undefined;
    if (std.c.clock_gettime(.MONOTONIC, &time) != 0) return 0;
    return @as(u64, @intCast(time.sec)) * std.time.ns_per_s + @as(u64, @intCast(time.nsec));
}

test "Interrupt.check fails from the deadline on, and waitMs never waits past it" {
    const past: Interrupt = .{ .deadline_ns = now() };
    try std.testing.expectError(error.Aborted, past.check());
    try std.testing.expectEqual(1, past.waitMs(50));
    const later: Interrupt = .{ .deadline_ns = now() + 3600 * std.time.ns_per_s };
    try later.check();
    try std.testing.expectEqual(50, later.waitMs(50));
}

test "isThreadAlive tells this thread from one that has ended" {
    try std.testing.expect(isThreadAlive(linux.gettid()));
    try std.testing.expect(!isThreadAlive(std.math.maxInt(linux.pid_t)));
}
