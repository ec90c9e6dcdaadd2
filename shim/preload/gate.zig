//! Holds calls that touch device memory back while it moves or is asleep. A call in progress holds the gate open: a
//! plan waits for it before memory moves.
//!
//! Awake, a call costs two additions to a counter that few threads share. Calls inside a call pass freely: what they
//! are part of holds the gate open already.

const std = @import("std");
const control_server = @import("core").control_server;
const program_memory = @import("core").program_memory;
const sync = @import("core").sync;
const status = @import("core").status;
const Session = @import("core").session.Session;

pub const State = enum(u2) {
    /// The library has not started: the first call starts it.
    unstarted,
    open,
    /// A plan waits for calls in progress, or moves memory.
    moving,
    asleep,
};

const shard_count = 64;
const Shard = struct {
    calls: std.atomic.Value(u64) align(2 * std.atomic.cache_line) = .init(0),
};

const Thread = struct {
    /// Calls in calls.
    depth: u32 = 0,
    /// 0 before the first call.
    shard: u32 = 0,
};

threadlocal var thread: Thread = .{};
var next_shard: std.atomic.Value(u32) = .init(0);
var shards: [shard_count]Shard = @splat(.{});
/// A `State`, and above it how often it has changed.
var state: std.atomic.Value(u32) = .init(@intFromEnum(State.unstarted));

/// Callers that wait now, and how many ever had to.
var waiting: std.atomic.Value(u32) = .init(0);
var touches: std.atomic.Value(u64) = .init(0);
/// The process ends: nobody waits any more.
var ending: std.atomic.Value(bool) = .init(false);
/// The process was asked to end while callers waited.
var terminating: std.atomic.Value(bool) = .init(false);

/// Lets a call begin, until `leave`. False where it must wait first.
pub inline fn tryEnter() bool {
    const own = &thread;
    if (own.depth > 0) {
        own.depth += 1;
        return true;
    }
    const calls = callsOf(own);
    _ = calls.fetchAdd(1, .seq_cst);
    if (stateOf(state.load(.seq_cst)) == .open) {
        own.depth = 1;
        return true;
    }
    _ = calls.fetchSub(1, .seq_cst);
    return false;
}

/// Whether this thread is in a call that holds the gate open.
pub fn isInside() bool {
    return thread.depth > 0;
}

pub inline fn leave() void {
    const own = &thread;
    own.depth -= 1;
    if (own.depth == 0) _ = callsOf(own).fetchSub(1, .seq_cst);
}

inline fn callsOf(own: *Thread) *std.atomic.Value(u64) {
    if (own.shard == 0) own.shard = 1 + next_shard.fetchAdd(1, .monotonic) % shard_count;
    return &shards[own.shard - 1].calls;
}

/// Counts the caller as waiting until `endWait`.
pub fn beginWait() void {
    _ = waiting.fetchAdd(1, .acq_rel);
    _ = touches.fetchAdd(1, .monotonic);
    control_server.announceChange();
}

pub fn endWait() void {
    _ = waiting.fetchSub(1, .acq_rel);
    control_server.announceChange();
}

/// Returns when the state is no longer that of `word`, and after a moment in any case.
pub fn waitForChange(seen: u32) void {
    sync.waitWhile(&state, seen, longest_wait_ns);
}

/// The process is asked to end. A signal handler may call this.
pub fn terminate() void {
    terminating.store(true, .release);
    sync.wakeAll(&state);
}

pub fn isTerminating() bool {
    return terminating.load(.acquire);
}

pub fn isEnding() bool {
    return ending.load(.acquire);
}

/// A waiting caller looks again this often: whether a wake-up may be tried again, and whether the process ends.
const longest_wait_ns = 20 * std.time.ns_per_ms;

pub fn word() u32 {
    return state.load(.seq_cst);
}

pub fn stateOf(seen: u32) State {
    return @enumFromInt(@as(u2, @truncate(seen)));
}

fn next(seen: u32, new: State) u32 {
    return ((seen & ~@as(u32, 3)) +% 4) | @intFromEnum(new);
}

fn set(new: State) void {
    var seen = state.load(.seq_cst);
    while (state.cmpxchgWeak(seen, next(seen, new), .seq_cst, .seq_cst)) |changed| seen = changed;
    sync.wakeAll(&state);
    control_server.announceChange();
}

/// The library has started, or cannot: calls pass.
pub fn start() void {
    set(.open);
}

/// The library has stopped; the next call starts it again.
pub fn stop() void {
    set(.unstarted);
}

/// Holds back calls that begin, and waits for those in progress.
pub fn close(interrupt: sync.Interrupt) status.Error!void {
    set(.moving);
    for (&shards) |*shard| {
        while (shard.calls.load(.seq_cst) > 0) {
            try interrupt.check();
            sync.sleep(poll_ns);
        }
    }
}

const poll_ns = 100 * std.time.ns_per_us;

/// A plan has ended.
pub fn settle(any_asleep: bool) void {
    if (!any_asleep) terminating.store(false, .release);
    set(if (any_asleep) .asleep else .open);
}

/// Memory was given back. Opens where that was the last that was asleep, unless a plan begins meanwhile.
pub fn settleAfterFree(session: *Session) void {
    const seen = state.load(.seq_cst);
    if (stateOf(seen) != .asleep or program_memory.isAnyAsleep(&session.registry)) return;
    if (state.cmpxchgStrong(seen, next(seen, .open), .seq_cst, .seq_cst) != null) return;
    sync.wakeAll(&state);
    control_server.announceChange();
}

pub fn isAsleep() bool {
    return stateOf(state.load(.seq_cst)) == .asleep;
}

pub fn stateNow() State {
    return stateOf(state.load(.seq_cst));
}

/// The process ends: callers that wait fail, so that nobody waits for them.
pub fn end() void {
    ending.store(true, .release);
    sync.wakeAll(&state);
}

/// Grows with each change of the state.
pub fn changes() u32 {
    return state.load(.seq_cst) >> 2;
}

pub const Counts = struct { waiting: u32, touches: u64 };

pub fn counts() Counts {
    return .{ .waiting = waiting.load(.acquire), .touches = touches.load(.monotonic) };
}

/// In a child of fork(), which has none of the other threads.
pub fn forget() void {
    const own = &thread;
    for (&shards) |*shard| shard.calls.store(0, .monotonic);
    if (own.depth > 0) callsOf(own).store(1, .monotonic);
    waiting.store(0, .monotonic);
    touches.store(0, .monotonic);
    terminating.store(false, .monotonic);
    state.store(@intFromEnum(State.unstarted), .seq_cst);
}
