//! The preload library and the emulator in one program, so that Zig's safety checks and the thread sanitizer see both:
//! threads allocate, write, verify and free through the library's functions without pause, while the main thread puts
//! everything to sleep. `zig build stress-preload -- <cycles>`; `-Dsanitize-thread` adds the sanitizer.

const std = @import("std");
const acl = @import("acl");
const core = @import("core");
const copy = @import("calls/copy.zig");
const device = @import("calls/device.zig");
const malloc = @import("calls/malloc.zig");
const mapping = @import("calls/mapping.zig");
const physical = @import("calls/physical.zig");
const start = @import("start.zig");
const plans = core.plans;

comptime {
    _ = @import("emulator"); // its exports are what the library stands in front of
}

const thread_count = 8;
const slots = 6;
const mapping_bytes = 2 << 20;

var stopping: std.atomic.Value(bool) = .init(false);
var wrong: std.atomic.Value(u64) = .init(0);
var allocations: std.atomic.Value(u64) = .init(0);

const Slot = struct {
    pointer: ?*anyopaque = null,
    size: usize = 0,
    value: u8 = 0,
    /// Of a mapping.
    handle: acl.DrvMemHandle = null,

    fn last(self: *const Slot) *anyopaque {
        const first: [*]u8 = @ptrCast(self.pointer.?);
        return first + self.size - 1;
    }

    fn fill(self: *Slot, random: std.Random) void {
        self.value = random.int(u8);
        expect(copy.aclrtMemset(self.pointer, self.size, self.value, self.size));
    }

    fn check(self: *const Slot) void {
        var found: u8 = 0;
        expect(copy.aclrtMemcpy(&found, 1, self.last(), 1, acl.MemcpyKind.device_to_host));
        if (found != self.value) _ = wrong.fetchAdd(1, .monotonic);
    }

    fn take(self: *Slot, random: std.Random) void {
        _ = allocations.fetchAdd(1, .monotonic);
        if (random.boolean()) {
            self.size = 1 + random.uintLessThan(usize, 3 << 20);
            return expect(malloc.aclrtMalloc(&self.pointer, self.size, acl.MallocPolicy.huge_first));
        }
        self.size = mapping_bytes;
        const prop: acl.PhysicalMemProp = .{
            .mem_attr = acl.MemAttr.hbm_huge,
            .location = .{ .id = 0, .type = acl.MemLocationType.device },
        };
        expect(mapping.aclrtReserveMemAddress(&self.pointer, mapping_bytes, 0, null, 0));
        expect(physical.aclrtMallocPhysical(&self.handle, mapping_bytes, &prop, 0));
        expect(mapping.aclrtMapMem(self.pointer, mapping_bytes, 0, self.handle, 0));
    }

    fn give(self: *Slot) void {
        if (self.handle == null) return expect(malloc.aclrtFree(self.pointer));
        expect(mapping.aclrtUnmapMem(self.pointer));
        expect(physical.aclrtFreePhysical(self.handle));
        expect(mapping.aclrtReleaseMemAddress(self.pointer));
    }
};

fn expect(code: acl.Error) void {
    if (code == acl.code.success) return;
    _ = wrong.fetchAdd(1, .monotonic);
    std.debug.print("unexpected code {d}\n", .{code});
}

fn hammer(seed: u64) void {
    var source: std.Random.DefaultPrng = .init(seed);
    const random = source.random();
    var held: [slots]Slot = @splat(.{});
    expect(device.aclrtSetDevice(0));
    while (!stopping.load(.acquire)) {
        const slot = &held[random.uintLessThan(usize, slots)];
        if (slot.pointer != null) {
            slot.check();
            slot.give();
        }
        slot.* = .{};
        slot.take(random);
        slot.fill(random);
    }
    for (&held) |*slot| {
        if (slot.pointer == null) continue;
        slot.check();
        slot.give();
    }
    expect(device.aclrtResetDevice(0));
}

/// Puts everything to sleep that is awake. The threads wake it.
fn sleep(session: *core.session.Session) !void {
    var groups: [4096]core.segment_groups.SegmentGroup = undefined;
    const everything = std.math.maxInt(u64);
    const found = try session.segmentGroups(everything, &groups);
    var steps: std.ArrayList(plans.PlanStep) = .empty;
    defer steps.deinit(std.heap.c_allocator);
    for (groups[0..found.count]) |group| {
        if (group.moving == 1 or group.state != @intFromEnum(core.segments.State.mapped)) continue;
        try steps.append(std.heap.c_allocator, .{
            .segments = group.segments,
            .segment_bytes = group.segment_bytes,
            .tag = group.tag,
            .device = group.device,
            .state = group.state,
            .clean = group.clean,
            .backed_up = group.backed_up,
            .action = @intFromEnum(plans.Action.offload),
        });
    }
    const basis: plans.Basis = .{ .last_segment_id = everything, .version = found.version };
    const ticket = session.submitPlan(steps.items, basis, .{}) catch |err| switch (err) {
        error.Busy, error.Stale, error.InvalidArgument => return, // the threads were faster
        else => return err,
    };
    try session.waitForPlan(ticket, 60 * std.time.ns_per_s);
    var failure: core.status.Failure = .{};
    const progress = try session.pollPlan(ticket, &failure);
    if (progress.complete == 0 and progress.status != @intFromEnum(core.status.Status.stale)) return error.SleepFailed;
}

pub fn main(init: std.process.Init) !void {
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    const cycles = if (arguments.len > 1) try std.fmt.parseInt(u32, arguments[1], 10) else 50;
    expect(device.aclrtSetDevice(0));
    const session = start.session() orelse return error.NotStarted;
    var threads: [thread_count]std.Thread = undefined;
    for (&threads, 1..) |*thread, seed| thread.* = try std.Thread.spawn(.{}, hammer, .{seed});
    for (0..cycles) |_| {
        try sleep(session);
        core.sync.sleep(5 * std.time.ns_per_ms);
    }
    stopping.store(true, .release);
    for (threads) |thread| thread.join();
    std.debug.print("cycles {d}, allocations {d}, wrong {d}\n", .{
        cycles,
        allocations.load(.acquire),
        wrong.load(.acquire),
    });
    if (wrong.load(.acquire) != 0) return error.Lost;
    expect(device.aclrtResetDevice(0));
}
