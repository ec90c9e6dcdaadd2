//! What an engine that runs under the preload library reports about itself, besides what its shim reports.

const std = @import("std");
const status = @import("status.zig");

/// What a call does that touches sleeping memory.
pub const OnTouch = enum(u32) {
    /// The library wakes everything, and the call waits for that.
    wake,
    /// The call waits until somebody wakes everything.
    hold,
    /// The call returns a code of AscendCL's.
    fail,
};

pub const GateState = enum(u32) {
    /// The library has not started: the engine has not used a device yet.
    unstarted,
    open,
    /// A plan waits for calls in progress, or moves memory. Calls that touch memory wait.
    moving,
    /// Calls that touch memory wait.
    asleep,
};

pub const EngineInfo = extern struct {
    /// Another number whenever the gate, its callers or the own wake-ups have changed.
    changes: u64 = 0,
    /// When the process began, in clock ticks after the machine did: tells it from a later process of the same number.
    start_time: u64 = 0,
    /// In the engine's own namespace.
    pid: u32 = 0,
    /// An `OnTouch`.
    on_touch: u32 = 0,
    /// A `GateState`.
    gate: u32 = 0,
    /// Calls that wait at the gate now.
    waiting_calls: u32 = 0,
    /// Calls that found memory asleep, so far.
    touches: u64 = 0,
    /// Wake-ups that the library began by itself, so far.
    own_wake_ups: u64 = 0,
    /// The `Status` of the last of them.
    own_wake_up_status: i32 = 0,
    /// The number of the session in this process: numbers of tags and segments are of that one.
    session: u32 = 0,
    /// The engine's live allocations.
    allocations: u64 = 0,
    allocated_bytes: u64 = 0,
    /// Memory that cannot sleep.
    pinned_segments: u64 = 0,
    pinned_bytes: u64 = 0,
    /// As the user or `camem run` named it, or the program's name.
    name: [64]u8 = @splat(0),
    /// Why the last own wake-up failed.
    own_wake_up_message: [256]u8 = @splat(0),
    /// How the engine bypasses the library, one line each; empty when it does not.
    bypasses: [512]u8 = @splat(0),
};

/// How a segment was written, as far as calls show: each is a bit.
pub const Written = enum(u32) {
    host_copy = 1,
    device_copy = 2,
    memset = 4,
};

/// Why memory stays on the device.
pub const Pin = enum(u32) {
    none,
    /// Other processes may use it (aclrtMemExportToShareableHandle).
    exported,
    /// Other processes may use it (aclrtIpcMemGetExportKey).
    ipc_key,
    /// A communicator knows it (HcclCommRegister).
    registered,
    /// Its physical memory is mapped more than once, or in part.
    mapped_in_part,
    /// Asked for with a policy or configuration that segments cannot have.
    special,
    /// A rule says so.
    rule,
    /// AscendCL refused what the library needs.
    refused,
};

/// What the library knows of a segment besides `SegmentInfo`, or of memory that is no segment since it cannot sleep.
pub const EngineSegment = extern struct {
    address: u64,
    /// 0 for memory that is no segment.
    segment_id: u64,
    size_bytes: u64,
    device: u32,
    /// The sum of its `Written`.
    written: u32,
    /// The number of the rule that applies, as `camem_engine_rules` lists them, from 1 on; 0 for none.
    rule: u32,
    /// A `Pin`.
    pin: u32,
    /// The engine's allocations in it.
    allocations: u64,
};

/// The engine as the control server sees it. Any thread may call each function, which returns at once.
pub const Engine = struct {
    /// As in `EngineInfo`.
    changes: *const fn () u64,
    info: *const fn (info: *EngineInfo) void,
    /// Copies the entries where they fit, and returns how many there are.
    segments: *const fn (target: []EngineSegment) status.Error!u64,
    /// Copies the rules, one line each, cut to the size of `target`, and returns their length.
    rules: *const fn (target: []u8) u64,
};

/// Set while an engine is served.
var served: ?*const Engine = null;

/// The number of the session.
pub var session: std.atomic.Value(u32) = .init(0);

pub fn serve(engine: ?*const Engine) void {
    served = engine;
}

const not_open = @intFromEnum(status.Status.not_open);
const ok = @intFromEnum(status.Status.ok);

/// What the engine reports about itself now.
pub fn camem_engine_info(info: *EngineInfo) callconv(.c) i32 {
    const engine = served orelse return not_open;
    info.* = .{};
    engine.info(info);
    info.session = session.load(.acquire);
    return ok;
}

/// As `camem_engine_info`, once the number of changes is another than `changes`, or after a second at most.
pub fn camem_engine_watch(changes: u64, info: *EngineInfo) callconv(.c) i32 {
    _ = changes; // the server has waited for that
    return camem_engine_info(info);
}

/// Copies what the library knows of segments and of memory that cannot sleep into `buffer`, which has room for
/// `capacity` entries, and writes how many there are to `count`. Where that is more than `capacity`, none is copied.
pub fn camem_engine_segments(buffer: [*]EngineSegment, capacity: u64, count: *u64) callconv(.c) i32 {
    const engine = served orelse return not_open;
    count.* = engine.segments(buffer[0..capacity]) catch |err| return @intFromEnum(status.fromError(err));
    return ok;
}

/// Copies the rules, one line each, cut to `capacity` bytes.
pub fn camem_engine_rules(buffer: [*]u8, capacity: u64, length: *u64) callconv(.c) i32 {
    const engine = served orelse return not_open;
    length.* = engine.rules(buffer[0..capacity]);
    return ok;
}
