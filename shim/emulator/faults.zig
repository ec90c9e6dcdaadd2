//! Fault injection: a test can make every single AscendCL call of a scenario fail in turn.
//!
//!     CAMEM_EMULATOR_FAULTS="aclrtMallocPhysical:3=207001,aclrtUnmapMem:1+=507899,*:57=507899"
//!     CAMEM_EMULATOR_FAULTS="aclrtMemcpyAsync.task:2=507013"
//!
//! `name:n=code` fails the nth call, counted from 1. `name:n+=code` fails the nth call and all later ones. The name
//! `*` counts every call that returns aclError. A name that ends in `.task` counts queued work as it executes. A name
//! that does not exist is refused, so a misspelt fault cannot stay unnoticed.
//!
//! The fault model:
//! - Any call that returns aclError can fail with any code. The choice is by count, so a run can be repeated exactly.
//! - A call that fails has no effect. It checks no argument and changes no state.
//! - Queued copies, fills and host functions can fail when they execute. Their bytes do not move and their function
//!   does not run. The next synchronize of the stream returns the code once. The tasks behind a failed one still run,
//!   except after aclrtSetStreamFailureMode.
//! - A device that is lost is `*:n+=507010`: from then on every call fails.
//!
//! Not modelled: a call that reports failure after it took effect, a call that reports success without effect, a copy
//! that moves some of its bytes, memory that changes by itself, and a call that never returns.

const std = @import("std");
const acl = @import("acl");
const sync = @import("sync.zig");
const call_names = @import("call_names.zig");
const allocator = std.heap.c_allocator;

/// Queued work that can fail when it executes.
pub const Task = enum { copy, batch_copy, fill, host_function };

const task_names: std.EnumArray(Task, []const u8) = .init(.{
    .copy = "aclrtMemcpyAsync.task",
    .batch_copy = "aclrtMemcpyBatchAsync.task",
    .fill = "aclrtMemsetAsync.task",
    .host_function = "aclrtLaunchHostFunc.task",
});

const Target = union(enum) { any_call, call: usize, task: Task };
const Rule = struct { target: Target, first: u64, onward: bool, code: acl.Error };
const Rules = std.ArrayList(Rule);

const Counter = std.atomic.Value(u64);
var any_call_counter: Counter = .init(0);
var call_counters: [call_names.max_count]Counter = @splat(.init(0));
var task_counters: std.EnumArray(Task, Counter) = .initFill(.init(0));
var armed: std.atomic.Value(bool) = .init(false);
var mutex: sync.Mutex = .{};
var rules: Rules = .empty;

/// Counts a call, and returns the code that it must fail with, if any.
pub fn interceptCall(index: usize) ?acl.Error {
    const count = call_counters[index].fetchAdd(1, .monotonic) + 1;
    const total = any_call_counter.fetchAdd(1, .monotonic) + 1;
    if (!armed.load(.acquire)) return null;
    return match(.{ .call = index }, count) orelse match(.any_call, total);
}

/// Counts a task that is about to execute, and returns the code that it must fail with, if any.
pub fn interceptTask(task: Task) ?acl.Error {
    const count = task_counters.getPtr(task).fetchAdd(1, .monotonic) + 1;
    if (!armed.load(.acquire)) return null;
    return match(.{ .task = task }, count);
}

fn match(target: Target, count: u64) ?acl.Error {
    mutex.lock();
    defer mutex.unlock();
    for (rules.items) |rule| {
        if (!std.meta.eql(rule.target, target)) continue;
        if (count == rule.first or (rule.onward and count > rule.first)) return rule.code;
    }
    return null;
}

/// Replaces all faults and restarts every counter.
pub fn replace(parsed: Rules) void {
    mutex.lock();
    defer mutex.unlock();
    rules.deinit(allocator);
    rules = parsed;
    any_call_counter.store(0, .monotonic);
    for (&call_counters) |*counter| counter.store(0, .monotonic);
    for (&task_counters.values) |*counter| counter.store(0, .monotonic);
    armed.store(parsed.items.len > 0, .release);
}

pub fn parse(names: call_names.Names, specification: []const u8) error{ OutOfMemory, Unparsable }!Rules {
    var parsed: Rules = .empty;
    errdefer parsed.deinit(allocator);
    if (std.mem.trim(u8, specification, " ").len == 0) return parsed;
    var entries = std.mem.splitScalar(u8, specification, ',');
    while (entries.next()) |entry| {
        try parsed.append(allocator, try parseRule(names, std.mem.trim(u8, entry, " ")));
    }
    return parsed;
}

fn parseRule(names: call_names.Names, entry: []const u8) error{Unparsable}!Rule {
    const colon = std.mem.indexOfScalar(u8, entry, ':') orelse return error.Unparsable;
    const equals = std.mem.indexOfScalarPos(u8, entry, colon, '=') orelse return error.Unparsable;
    const target = find(names, entry[0..colon]) orelse return error.Unparsable;
    var count = entry[colon + 1 .. equals];
    const onward = std.mem.endsWith(u8, count, "+");
    if (onward) count = count[0 .. count.len - 1];
    const first = std.fmt.parseInt(u64, count, 10) catch return error.Unparsable;
    const code = std.fmt.parseInt(acl.Error, entry[equals + 1 ..], 10) catch return error.Unparsable;
    // Code 0 would make a call succeed without effect, which the model excludes.
    if (first == 0 or code == 0) return error.Unparsable;
    return .{ .target = target, .first = first, .onward = onward, .code = code };
}

fn find(names: call_names.Names, name: []const u8) ?Target {
    if (std.mem.eql(u8, name, "*")) return .any_call;
    if (call_names.indexOf(names, name)) |index| return .{ .call = index };
    const task = call_names.indexOf(&task_names.values, name) orelse return null;
    return .{ .task = @enumFromInt(task) };
}

/// Calls or tasks of that name since the faults were last replaced, failed ones included; 0 for an unknown name.
pub fn countOf(names: call_names.Names, name: []const u8) u64 {
    const target = find(names, name) orelse return 0;
    return switch (target) {
        .any_call => any_call_counter.load(.monotonic),
        .call => |index| call_counters[index].load(.monotonic),
        .task => |task| task_counters.getPtr(task).load(.monotonic),
    };
}

const malloc = 0;
const free = 1;
const test_names: call_names.Names = &.{ "aclrtMalloc", "aclrtFree" };

test "parse refuses a specification when any part of it is wrong" {
    for ([_][]const u8{
        "aclrtMalloc",         "aclrtMalloc:1",          "aclrtMalloc:0=207001", "aclrtMalloc:x=207001",
        "aclrtMaloc:1=207001", "aclrtMalloc:1=207001,,", "aclrtMalloc:1=",       "aclrtMalloc:1=0",
        ":1=207001",           "*:+=1",                  "aclrtMalloc=1:207001",
    }) |text| try std.testing.expectError(error.Unparsable, parse(test_names, text));
    var parsed = try parse(test_names, " aclrtMalloc:3=207001, *:57+=507899,aclrtMemcpyAsync.task:2=507013");
    defer parsed.deinit(allocator);
    try std.testing.expectEqual(3, parsed.items.len);
    try std.testing.expect(parsed.items[1].onward);
    try std.testing.expectEqual(.any_call, parsed.items[1].target);
    try std.testing.expectEqual(Target{ .task = .copy }, parsed.items[2].target);
}

test "interceptCall returns the code when the count matches a rule" {
    defer replace(.empty);
    replace(try parse(test_names, "aclrtMalloc:2=207001,aclrtFree:2+=507899,*:5=107000"));
    try std.testing.expectEqual(null, interceptCall(malloc));
    try std.testing.expectEqual(207001, interceptCall(malloc));
    try std.testing.expectEqual(null, interceptCall(free));
    try std.testing.expectEqual(507899, interceptCall(free));
    try std.testing.expectEqual(107000, interceptCall(malloc));
    try std.testing.expectEqual(507899, interceptCall(free));
    try std.testing.expectEqual(3, countOf(test_names, "aclrtMalloc"));
    try std.testing.expectEqual(6, countOf(test_names, "*"));
    replace(.empty);
    try std.testing.expectEqual(0, countOf(test_names, "*"));
}
