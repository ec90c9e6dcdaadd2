//! Copies and fills, synchronous and queued, one by one and in batches.

const std = @import("std");
const acl = @import("acl");
const state = @import("state.zig");
const errors = @import("errors.zig");
const faults = @import("faults.zig");
const device = @import("device.zig");
const address_space = @import("address_space.zig");
const streams = @import("stream.zig");
const sync = @import("sync.zig");
const task = @import("task.zig");
const timing = @import("timing.zig");
const config = @import("config.zig");
const View = address_space.View;

const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;

fn checkPointers(destination: ?*anyopaque, source: ?*const anyopaque, kind: c_int) acl.Error {
    if (destination == null or source == null) return errors.fail(invalid, "dst or src is NULL");
    if (kind < 0 or kind > acl.MemcpyKind.host_to_buf_to_device) return errors.fail(invalid, "unknown copy kind");
    return acl.code.success;
}

fn checkRoom(room: usize, count: usize) acl.Error {
    if (room == 0 or count > room) return errors.fail(refused, "count exceeds destMax");
    return acl.code.success;
}

/// Classifies and pins both sides; on failure neither is pinned.
fn pinBoth(copy: *task.Copy) acl.Error {
    const code = address_space.pin(copy.destination, copy.size, &copy.to);
    if (code != acl.code.success) return code;
    const from = address_space.pin(copy.source, copy.size, &copy.from);
    if (from != acl.code.success) copy.to.unpin();
    return from;
}

/// The lock is held on entry and on return, but not while bytes move.
fn runUnlocked(copy: *task.Copy) void {
    const end = copy.schedule(timing.begin(&config.get().timing));
    state.leave();
    copy.run();
    sync.waitUntil(end);
    state.enter();
    copy.unpin();
}

pub fn copySync(destination: ?*anyopaque, room: usize, source: ?*const anyopaque, count: usize, kind: c_int) acl.Error {
    if (count == 0) return acl.code.success;
    var code = checkPointers(destination, source, kind);
    if (code == acl.code.success) code = checkRoom(room, count);
    if (code != acl.code.success) return code;
    if (destination == source) return acl.code.success;
    state.enter();
    defer state.leave();
    _ = device.current() orelse return device.noContext();
    var copy = makeCopy(@intFromPtr(destination), @intFromPtr(source), count);
    code = pinBoth(&copy);
    if (code != acl.code.success) return code;
    runUnlocked(&copy);
    return acl.code.success;
}

fn makeCopy(destination: u64, source: u64, size: u64) task.Copy {
    return .{
        .destination = destination,
        .source = source,
        .size = size,
        .fault = comptime faults.indexOf("aclrtMemcpyAsync.task"),
    };
}

pub fn copyAsync(
    destination: ?*anyopaque,
    room: usize,
    source: ?*const anyopaque,
    count: usize,
    kind: c_int,
    handle: acl.Stream,
) acl.Error {
    if (count == 0) return acl.code.success;
    var code = checkPointers(destination, source, kind);
    if (code != acl.code.success) return code;
    state.enter();
    defer state.leave();
    if (streams.isStale(handle)) return streams.staleStream();
    code = checkRoom(room, count);
    if (code != acl.code.success) return code;
    if (destination == source) return acl.code.success;
    var stream: *streams.Stream = undefined;
    code = streams.resolveOwn(handle, &stream);
    if (code != acl.code.success) return code;
    var copy = makeCopy(@intFromPtr(destination), @intFromPtr(source), count);
    code = pinBoth(&copy);
    if (code != acl.code.success) return code;
    code = checkKind(&copy, kind);
    if (code != acl.code.success) {
        copy.unpin();
        return code;
    }
    return submit(stream, &copy);
}

/// The runtime corrects the kind from the pointers, but plain host memory can be no side that is called a device.
fn checkKind(copy: *const task.Copy, kind: c_int) acl.Error {
    const to_device = switch (kind) {
        acl.MemcpyKind.host_to_device, acl.MemcpyKind.device_to_device, acl.MemcpyKind.host_to_buf_to_device => true,
        else => false,
    };
    const from_device = kind == acl.MemcpyKind.device_to_host or kind == acl.MemcpyKind.device_to_device;
    if ((to_device and copy.to.side == .pageable_host) or (from_device and copy.from.side == .pageable_host))
        return errors.fail(refused, "the copy kind contradicts the pointers");
    if (copy.to.isHost() and copy.from.isHost())
        return errors.fail(acl.code.rt_feature_not_supported, "no asynchronous copy from host to host");
    return acl.code.success;
}

/// Takes over the pins. Pageable memory makes the copy synchronous, behind what is on the stream already.
fn submit(stream: *streams.Stream, copy: *task.Copy) acl.Error {
    if (copy.to.side != .pageable_host and copy.from.side != .pageable_host) {
        const code = stream.enqueue(.{ .copy = copy.* });
        if (code != acl.code.success) copy.unpin();
        return code;
    }
    stream.references += 1;
    defer stream.release();
    _ = stream.drain(null);
    const code = stream.takeFailure();
    if (code != acl.code.success) {
        copy.unpin();
        return code;
    }
    if (faults.interceptTask(copy.fault)) |fault| {
        stream.failure = fault;
        copy.unpin();
        return acl.code.success;
    }
    runUnlocked(copy);
    return acl.code.success;
}

pub fn fillSync(pointer: ?*anyopaque, room: usize, value: i32, count: usize) acl.Error {
    if (count == 0) return acl.code.success;
    if (pointer == null) return errors.fail(invalid, "devPtr is NULL");
    state.enter();
    defer state.leave();
    _ = device.current() orelse return device.noContext();
    const code = checkRoom(room, count);
    if (code != acl.code.success) return code;
    var fill: task.Fill = .{ .destination = @intFromPtr(pointer), .value = value, .size = count };
    return runFill(&fill);
}

fn runFill(fill: *task.Fill) acl.Error {
    const code = address_space.pin(fill.destination, fill.size, &fill.to);
    if (code != acl.code.success) return code;
    state.leave();
    fill.run();
    state.enter();
    fill.to.unpin();
    return acl.code.success;
}

pub fn fillAsync(pointer: ?*anyopaque, room: usize, value: i32, count: usize, handle: acl.Stream) acl.Error {
    if (count == 0) return acl.code.success;
    if (pointer == null) return errors.fail(invalid, "devPtr is NULL");
    state.enter();
    defer state.leave();
    if (streams.isStale(handle)) return streams.staleStream();
    var code = checkRoom(room, count);
    if (code != acl.code.success) return code;
    var stream: *streams.Stream = undefined;
    code = streams.resolveOwn(handle, &stream);
    if (code != acl.code.success) return code;
    var fill: task.Fill = .{ .destination = @intFromPtr(pointer), .value = value, .size = count };
    code = address_space.pin(fill.destination, fill.size, &fill.to);
    if (code != acl.code.success) return code;
    if (fill.to.isHost()) {
        fill.to.unpin();
        return runFill(&fill);
    }
    code = stream.enqueue(.{ .fill = fill });
    if (code != acl.code.success) fill.to.unpin();
    return code;
}

/// The arguments that all four batch calls share.
pub const Batch = struct {
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,

    fn element(batch: *const Batch, index: usize) task.Copy {
        var copy = makeCopy(
            @intFromPtr(batch.destinations.?[index]),
            @intFromPtr(batch.sources.?[index]),
            batch.sizes.?[index],
        );
        copy.fault = comptime faults.indexOf("aclrtMemcpyBatchAsync.task");
        return copy;
    }

    /// The attribute that holds for an element: the last one that starts at or before it.
    fn attributeOf(batch: *const Batch, index: usize) *const acl.MemcpyBatchAttr {
        var found: usize = 0;
        for (batch.attribute_starts.?[0..batch.attribute_count], 0..) |start, candidate| {
            if (start <= index) found = candidate;
        }
        return &batch.attributes.?[found];
    }

    fn allSizesZero(batch: *const Batch) bool {
        for (batch.sizes.?[0..batch.count]) |size| {
            if (size != 0) return false;
        }
        return true;
    }
};

const max_batch = 4096;
const no_index = std.math.maxInt(usize);
/// Batches have a synchronous and a queued form; V1 has an index that tells which element failed.
const Form = enum { plain, indexed };

pub fn batchSync(batch: Batch, fail_index: ?*usize, form: Form) acl.Error {
    if (earlyBatchResult(&batch, fail_index, form)) |code| return code;
    var code = checkBatchShape(&batch);
    if (code == acl.code.success and batch.count > max_batch) code = errors.fail(refused, "more than 4096 elements");
    if (code != acl.code.success) return code;
    state.enter();
    defer state.leave();
    for (0..batch.count) |index| {
        var copy = batch.element(index);
        if (copy.size == 0) continue;
        code = pinElement(&batch, index, &copy, fail_index);
        if (code != acl.code.success) return code;
        runUnlocked(&copy);
    }
    return acl.code.success;
}

pub fn batchAsync(batch: Batch, fail_index: ?*usize, form: Form, handle: acl.Stream) acl.Error {
    if (earlyBatchResult(&batch, fail_index, form)) |code| return code;
    state.enter();
    defer state.leave();
    if (streams.isStale(handle)) return streams.staleStream();
    var code = checkBatchShape(&batch);
    if (code != acl.code.success) return code;
    for (batch.sizes.?[0..batch.count]) |size| {
        if (size == 0) return errors.fail(refused, "an element has size 0");
    }
    var stream: *streams.Stream = undefined;
    code = streams.resolveOwn(handle, &stream);
    if (code != acl.code.success) return code;
    for (0..batch.count) |index| {
        var copy = batch.element(index);
        code = pinElement(&batch, index, &copy, fail_index);
        if (code == acl.code.success) code = submit(stream, &copy);
        if (code != acl.code.success) return code;
    }
    return acl.code.success;
}

/// The ACL layer's checks. A result ends the call; null goes on.
fn earlyBatchResult(batch: *const Batch, fail_index: ?*usize, form: Form) ?acl.Error {
    if (batch.sizes == null or batch.count == 0) return errors.fail(invalid, "sizes is NULL or numBatches is 0");
    if (fail_index) |out| out.* = no_index;
    if (batch.allSizesZero()) return acl.code.success;
    if (form == .indexed and fail_index == null) return errors.fail(invalid, "failIndex is NULL");
    const destinations = batch.destinations orelse return errors.fail(invalid, "dsts is NULL");
    const sources = batch.sources orelse return errors.fail(invalid, "srcs is NULL");
    const rooms = batch.rooms orelse return errors.fail(invalid, "destMaxs is NULL");
    if (batch.attributes == null or batch.attribute_starts == null) return errors.fail(invalid, "attrs is NULL");
    for (batch.sizes.?, rooms, destinations, sources, 0..batch.count) |size, room, to, from, _| {
        if (room < size) return errors.fail(invalid, "destMax is smaller than the size");
        if (size > 0 and (to == null or from == null)) return errors.fail(invalid, "an element has a NULL address");
    }
    // A count beyond the batch is refused later, so what lies there is not looked at.
    for (batch.attributes.?[0..@min(batch.attribute_count, batch.count)]) |attribute| {
        if (!std.mem.allEqual(u8, &attribute.rsv, 0)) return errors.fail(invalid, "rsv is not zero");
    }
    return null;
}

fn checkBatchShape(batch: *const Batch) acl.Error {
    if (batch.attribute_count == 0 or batch.attribute_count > batch.count)
        return errors.fail(refused, "numAttrs is 0 or exceeds numBatches");
    const starts = batch.attribute_starts.?[0..batch.attribute_count];
    if (starts[0] != 0) return errors.fail(refused, "attrsIndexes does not begin with 0");
    for (starts[1..], starts[0 .. starts.len - 1]) |start, previous| {
        if (start <= previous or start >= batch.count)
            return errors.fail(refused, "attrsIndexes is not increasing or out of range");
    }
    return acl.code.success;
}

fn pinElement(batch: *const Batch, index: usize, copy: *task.Copy, fail_index: ?*usize) acl.Error {
    var code = pinBoth(copy);
    if (code != acl.code.success) return code;
    const attribute = batch.attributeOf(index);
    const one_side = copy.to.isHost() == copy.from.isHost();
    if (one_side or !matches(&copy.to, attribute.dst_loc) or !matches(&copy.from, attribute.src_loc)) {
        if (fail_index) |out| out.* = index;
        code = errors.fail(refused, "an element is not where its attribute says, or is no H2D or D2H copy");
    } else if (copy.to.imported or copy.from.imported) {
        code = errors.fail(acl.code.rt_feature_not_supported, "imported memory in a batch");
    }
    if (code != acl.code.success) copy.unpin();
    return code;
}

fn matches(view: *const View, location: acl.MemLocation) bool {
    return switch (location.type) {
        acl.MemLocationType.host, acl.MemLocationType.unregistered, acl.MemLocationType.host_numa => view.isHost(),
        acl.MemLocationType.device => !view.isHost() and view.device == location.id,
        else => false,
    };
}

const max_wait_flag = 3;

pub fn waitValue(pointer: ?*anyopaque, value: u64, flag: u32, handle: acl.Stream) acl.Error {
    if (flag > max_wait_flag and pointer != null) return errors.fail(refused, "unknown wait flag");
    var word: task.Word = .{ .address = @intFromPtr(pointer), .value = value, .flag = flag };
    return submitWord(&word, handle, .wait);
}

pub fn writeValue(pointer: ?*anyopaque, value: u64, flag: u32, handle: acl.Stream) acl.Error {
    if (flag != 0 and pointer != null) return errors.fail(refused, "the write flag must be 0");
    var word: task.Word = .{ .address = @intFromPtr(pointer), .value = value };
    return submitWord(&word, handle, .write);
}

fn submitWord(word: *task.Word, handle: acl.Stream, action: enum { wait, write }) acl.Error {
    if (word.address == 0) return errors.fail(invalid, "devAddr is NULL");
    state.enter();
    defer state.leave();
    var stream: *streams.Stream = undefined;
    var code = streams.resolveOwn(handle, &stream);
    if (code != acl.code.success) return code;
    code = address_space.pin(word.address, @sizeOf(u64), &word.at);
    if (code != acl.code.success) return errors.fail(refused, "not device memory");
    if (word.at.isHost()) {
        word.at.unpin();
        return errors.fail(refused, "not device memory");
    }
    code = stream.enqueue(switch (action) {
        .wait => .{ .wait_value = word.* },
        .write => .{ .write_value = word.* },
    });
    if (code != acl.code.success) word.at.unpin();
    return code;
}

const memory = @import("memory.zig");
const testing = @import("testing.zig");
const expectCode = testing.expectCode;
const Kind = acl.MemcpyKind;

test "synchronous copies check their arguments and move bytes" {
    defer testing.cleanUp();
    var from: [4096]u8 = @splat(7);
    var to: [4096]u8 = @splat(0);
    var there: ?*anyopaque = null;
    try expectCode(0, copySync(null, 0, null, 0, 99));
    try expectCode(107002, copySync(&to, 4096, &from, 4096, Kind.host_to_host));
    try expectCode(0, device.set(0));
    try expectCode(100000, copySync(null, 4096, &from, 1, 0));
    try expectCode(100000, copySync(&to, 4096, null, 1, 0));
    try expectCode(100000, copySync(&to, 4096, &from, 1, 6));
    try expectCode(107000, copySync(&to, 0, &from, 1, 0));
    try expectCode(107000, copySync(&to, 4, &from, 5, 0));
    try expectCode(107000, copySync(&to, std.math.maxInt(usize), &from, std.math.maxInt(usize), 0));
    try expectCode(0, copySync(&to, 4096, &to, 4096, 0));
    try expectCode(0, memory.malloc(&there, 4096, 0));
    try expectCode(0, copySync(there, 4096, &from, 4096, Kind.host_to_device));
    try expectCode(0, copySync(&to, 4096, there, 4096, Kind.device_to_host));
    try std.testing.expectEqualSlices(u8, &from, &to);
    try expectCode(0, fillSync(there, 4096, 0x1ff, 4096));
    try expectCode(0, copySync(&to, 4096, there, 4096, Kind.default));
    try std.testing.expectEqual(0xff, to[4095]);
    try expectCode(107000, fillSync(there, 10, 0, 11));
    try expectCode(100000, fillSync(null, 10, 0, 1));
    try expectCode(0, fillSync(null, 0, 0, 0));
    try expectCode(0, fillSync(&to, 4096, 0, 16));
    try expectCode(507899, copySync(&to, 4096, @ptrFromInt(address_space.window_end - 8192), 4096, Kind.default));
    try expectCode(507899, copySync(there, 1 << 30, &from, 1 << 30, Kind.default));
    try expectCode(0, memory.free(there));
}

test "asynchronous copies run in stream order and report their failure once" {
    defer testing.cleanUp();
    var there: ?*anyopaque = null;
    var host: ?*anyopaque = null;
    var stream: acl.Stream = null;
    var gate: testing.Gate = .{};
    var pageable: [4096]u8 = @splat(3);
    try expectCode(0, device.set(0));
    try expectCode(0, memory.malloc(&there, 4096, 0));
    try expectCode(0, memory.mallocHost(&host, 4096));
    try expectCode(0, streams.create(&stream));
    const bytes: [*]u8 = @ptrCast(host.?);
    @memset(bytes[0..4096], 9);
    try expectCode(0, streams.launchHostFunction(stream, testing.Gate.pass, &gate));
    try expectCode(0, copyAsync(there, 4096, host, 4096, Kind.host_to_device, stream));
    var status: c_int = -1;
    try expectCode(0, streams.query(stream, &status));
    try std.testing.expectEqual(acl.StreamStatus.not_ready, status);
    try expectCode(207000, copyAsync(host, 4096, &pageable, 4096, Kind.host_to_host, stream));
    try expectCode(107000, copyAsync(there, 4096, &pageable, 4096, Kind.device_to_device, stream));
    gate.open();
    try expectCode(0, copyAsync(&pageable, 4096, there, 4096, Kind.device_to_host, stream));
    try std.testing.expectEqual(9, pageable[4095]);

    faults.replace(try faults.parse("aclrtMemcpyAsync.task:1=507013"));
    defer faults.replace(.empty);
    @memset(bytes[0..4096], 1);
    try expectCode(0, copyAsync(there, 4096, host, 4096, Kind.host_to_device, stream));
    try expectCode(507013, streams.synchronize(stream));
    try expectCode(0, streams.synchronize(stream));
    try expectCode(0, copySync(&pageable, 4096, there, 4096, Kind.device_to_host));
    try std.testing.expectEqual(9, pageable[0]);
    try expectCode(0, fillAsync(there, 4096, 5, 4096, stream));
    try expectCode(107000, fillAsync(there, 1, 5, 2, stream));
    try expectCode(0, streams.synchronize(stream));
    // Freed under queued work: the work keeps the memory until it is done.
    gate.close();
    try expectCode(0, streams.launchHostFunction(stream, testing.Gate.pass, &gate));
    try expectCode(0, copyAsync(there, 4096, host, 4096, Kind.host_to_device, stream));
    try expectCode(0, memory.free(there));
    try expectCode(0, memory.freeHost(host));
    gate.open();
    try expectCode(0, streams.synchronize(stream));
}

test "by the timing model, a copy begins when what is queued before it has ended" {
    defer testing.cleanUp();
    const model = &@constCast(config.get()).timing;
    defer model.* = .{};
    model.* = try timing.parse("h2d=1GiB/s");
    const size = 2 << 20;
    const copy_nanoseconds = std.time.ns_per_s / 512;
    var gate: testing.Gate = .{};
    var there: ?*anyopaque = null;
    var host: ?*anyopaque = null;
    var stream: acl.Stream = null;
    try expectCode(0, device.set(0));
    try expectCode(0, memory.mallocAlign32(&there, size, 0));
    try expectCode(0, memory.mallocHost(&host, size));
    try expectCode(0, streams.create(&stream));
    try expectCode(0, streams.launchHostFunction(stream, testing.Gate.pass, &gate));
    for (0..3) |_| try expectCode(0, copyAsync(there, size, host, size, Kind.host_to_device, stream));
    sync.sleepMilliseconds(4);
    const opened_at = sync.now();
    gate.open();
    try expectCode(0, streams.synchronize(stream));
    const queued_until = sync.now();
    try std.testing.expect(queued_until - opened_at >= 3 * copy_nanoseconds);
    try expectCode(0, copySync(there, size, host, size, Kind.host_to_device));
    try std.testing.expect(sync.now() - queued_until >= copy_nanoseconds);
    try expectCode(0, memory.free(there));
    try expectCode(0, memory.freeHost(host));
}

test "batches" {
    defer testing.cleanUp();
    var there: ?*anyopaque = null;
    var stream: acl.Stream = null;
    var pageable: [4096]u8 = @splat(3);
    try expectCode(0, device.set(0));
    try expectCode(0, memory.malloc(&there, 8192, 0));
    try expectCode(0, streams.create(&stream));
    var destinations = [_]?*anyopaque{ there, @ptrFromInt(@intFromPtr(there) + 4096) };
    var sources = [_]?*anyopaque{ &pageable, &pageable };
    var sizes = [_]usize{ 4096, 4096 };
    var attributes = [_]acl.MemcpyBatchAttr{.{
        .dst_loc = .{ .id = 0, .type = acl.MemLocationType.device },
        .src_loc = .{ .id = 0, .type = acl.MemLocationType.host },
    }};
    var starts = [_]usize{0};
    var failed: usize = 5;
    var batch: Batch = .{
        .destinations = &destinations,
        .rooms = &sizes,
        .sources = &sources,
        .sizes = &sizes,
        .count = 2,
        .attributes = &attributes,
        .attribute_starts = &starts,
        .attribute_count = 1,
    };
    try expectCode(100000, batchSync(batch, null, .indexed));
    try expectCode(0, batchSync(batch, &failed, .indexed));
    try std.testing.expectEqual(std.math.maxInt(usize), failed);
    try expectCode(0, batchAsync(batch, null, .plain, stream));
    attributes[0].dst_loc.type = acl.MemLocationType.host;
    try expectCode(107000, batchSync(batch, &failed, .indexed));
    try std.testing.expectEqual(0, failed);
    starts[0] = 1;
    try expectCode(107000, batchSync(batch, &failed, .indexed));
    attributes[0].rsv[3] = 1;
    try expectCode(100000, batchSync(batch, &failed, .indexed));
    batch.count = 0;
    try expectCode(100000, batchSync(batch, &failed, .indexed));
    try expectCode(0, memory.free(there));
}

test "a stream waits for a value that another one writes" {
    defer testing.cleanUp();
    var there: ?*anyopaque = null;
    var waiting: acl.Stream = null;
    var writing: acl.Stream = null;
    var local: u64 = 0;
    try expectCode(0, device.set(0));
    try expectCode(0, memory.malloc(&there, 4096, 0));
    try expectCode(0, streams.create(&waiting));
    try expectCode(0, streams.create(&writing));
    try expectCode(100000, waitValue(null, 1, 1, waiting));
    try expectCode(107000, waitValue(there, 1, 4, waiting));
    try expectCode(107000, writeValue(there, 1, 1, writing));
    try expectCode(107000, writeValue(&local, 1, 0, writing));
    try expectCode(0, waitValue(there, 100, 1, waiting));
    try expectCode(507046, streams.synchronizeWithTimeout(waiting, 5));
    try expectCode(0, writeValue(there, 100, 0, writing));
    try expectCode(0, streams.synchronize(waiting));
    try expectCode(0, waitValue(there, 101, 1, waiting));
    try expectCode(0, streams.destroyForce(waiting));
    try expectCode(0, memory.free(there));
}
