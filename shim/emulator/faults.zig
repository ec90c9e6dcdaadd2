//! Fault injection by call count, so that a test can fail every single AscendCL call of a scenario in turn.
//!
//!     CAMEM_EMULATOR_FAULTS="aclrtMallocPhysical:3=207001,aclrtUnmapMem:1+=507899,*:57=507899,aclrtMemcpyAsync.task:2=507013"
//!
//! `name:n=code`: the nth call (from 1) returns the code and has no effect. `n+`: the nth and all later ones.
//! `*` counts every AscendCL function that returns aclError. A `.task` name counts queued work when it executes: the work
//! is not done, and the stream's next synchronize returns the code. Names are the exports of emulator.zig, so a misspelt
//! one is an error instead of a fault that never comes.

const std = @import("std");
const acl = @import("acl");
const sync = @import("sync.zig");
const state = @import("state.zig");
const exports = @import("emulator.zig");

pub const task_names = [_][]const u8{
    "aclrtMemcpyAsync.task",
    "aclrtMemsetAsync.task",
    "aclrtMemcpyBatchAsync.task",
    "aclrtLaunchHostFunc.task",
};

pub const call_names = blk: {
    @setEvalBranchQuota(100_000);
    var found: []const []const u8 = &.{};
    for (@typeInfo(exports).@"struct".decls) |declaration| {
        if (!std.mem.startsWith(u8, declaration.name, "acl")) continue;
        const signature = @typeInfo(@TypeOf(@field(exports, declaration.name))).@"fn";
        if (signature.return_type == acl.Error) found = found ++ .{declaration.name};
    }
    break :blk found;
};

const names = call_names ++ task_names;
const any = names.len;

const Rule = struct { target: usize, first: u64, onward: bool, code: acl.Error };
pub const Rules = std.ArrayList(Rule);

var counters: [names.len + 1]std.atomic.Value(u64) = @splat(.init(0));
var armed: std.atomic.Value(bool) = .init(false);
var mutex: sync.Mutex = .{};
var rules: Rules = .empty;

pub fn indexOf(comptime name: []const u8) usize {
    @setEvalBranchQuota(100_000);
    inline for (names, 0..) |candidate, index| {
        if (comptime std.mem.eql(u8, candidate, name)) return index;
    }
    @compileError(name ++ " is no export that can fail");
}

/// Counts a call; the code that it is to fail with, if any.
pub fn intercept(index: usize) ?acl.Error {
    const count = counters[index].fetchAdd(1, .monotonic) + 1;
    const total = counters[any].fetchAdd(1, .monotonic) + 1;
    if (!armed.load(.acquire)) return null;
    return match(index, count) orelse match(any, total);
}

/// As `intercept`, for queued work: not counted as a call.
pub fn interceptTask(index: usize) ?acl.Error {
    const count = counters[index].fetchAdd(1, .monotonic) + 1;
    if (!armed.load(.acquire)) return null;
    return match(index, count);
}

fn match(index: usize, count: u64) ?acl.Error {
    mutex.lock();
    defer mutex.unlock();
    for (rules.items) |rule| {
        if (rule.target != index) continue;
        if (count == rule.first or (rule.onward and count > rule.first)) return rule.code;
    }
    return null;
}

/// Replaces all faults and restarts every counter.
pub fn replace(parsed: Rules) void {
    mutex.lock();
    defer mutex.unlock();
    rules.deinit(state.allocator);
    rules = parsed;
    for (&counters) |*counter| counter.store(0, .monotonic);
    armed.store(parsed.items.len > 0, .release);
}

pub fn parse(specification: []const u8) error{ OutOfMemory, Unparsable }!Rules {
    var parsed: Rules = .empty;
    errdefer parsed.deinit(state.allocator);
    if (std.mem.trim(u8, specification, " ").len == 0) return parsed;
    var entries = std.mem.splitScalar(u8, specification, ',');
    while (entries.next()) |entry| {
        try parsed.append(state.allocator, try parseRule(std.mem.trim(u8, entry, " ")));
    }
    return parsed;
}

fn parseRule(entry: []const u8) error{Unparsable}!Rule {
    const colon = std.mem.indexOfScalar(u8, entry, ':') orelse return error.Unparsable;
    const equals = std.mem.indexOfScalarPos(u8, entry, colon, '=') orelse return error.Unparsable;
    const target = find(entry[0..colon]) orelse return error.Unparsable;
    var count = entry[colon + 1 .. equals];
    const onward = std.mem.endsWith(u8, count, "+");
    if (onward) count = count[0 .. count.len - 1];
    const first = std.fmt.parseInt(u64, count, 10) catch return error.Unparsable;
    const code = std.fmt.parseInt(acl.Error, entry[equals + 1 ..], 10) catch return error.Unparsable;
    // Code 0 would make a call succeed without having done anything, which no device does.
    if (first == 0 or code == 0) return error.Unparsable;
    return .{ .target = target, .first = first, .onward = onward, .code = code };
}

fn find(name: []const u8) ?usize {
    if (std.mem.eql(u8, name, "*")) return any;
    return position(names, name);
}

/// The index of an AscendCL function among `call_names`.
pub fn findCall(name: []const u8) ?usize {
    return position(call_names, name);
}

fn position(candidates: []const []const u8, name: []const u8) ?usize {
    for (candidates, 0..) |candidate, index| {
        if (std.mem.eql(u8, candidate, name)) return index;
    }
    return null;
}

pub fn callCount(name: []const u8) u64 {
    const index = find(name) orelse return 0;
    return counters[index].load(.monotonic);
}

test "the specification is parsed whole or refused" {
    for ([_][]const u8{
        "aclrtMalloc",            "aclrtMalloc:1",  "aclrtMalloc:0=207001", "aclrtMalloc:x=207001", "aclrtMaloc:1=207001",
        "aclrtMalloc:1=207001,,", "aclrtMalloc:1=", "aclrtMalloc:1=0",      ":1=207001",            "*:+=1",
        "aclrtMalloc=1:207001",
    }) |text| try std.testing.expectError(error.Unparsable, parse(text));
    var parsed = try parse(" aclrtMalloc:3=207001, *:57+=507899,aclrtMemcpyAsync.task:2=507013");
    defer parsed.deinit(state.allocator);
    try std.testing.expectEqual(3, parsed.items.len);
    try std.testing.expect(parsed.items[1].onward);
    try std.testing.expectEqual(any, parsed.items[1].target);
}

test "the nth call fails, and counters restart with the faults" {
    defer replace(.empty);
    const malloc = comptime indexOf("aclrtMalloc");
    replace(try parse("aclrtMalloc:2=207001,aclrtFree:2+=507899,*:5=107000"));
    try std.testing.expectEqual(null, intercept(malloc));
    try std.testing.expectEqual(207001, intercept(malloc));
    const free = comptime indexOf("aclrtFree");
    try std.testing.expectEqual(null, intercept(free));
    try std.testing.expectEqual(507899, intercept(free));
    try std.testing.expectEqual(107000, intercept(malloc));
    try std.testing.expectEqual(507899, intercept(free));
    try std.testing.expectEqual(3, callCount("aclrtMalloc"));
    try std.testing.expectEqual(6, callCount("*"));
    replace(.empty);
    try std.testing.expectEqual(0, callCount("*"));
}
