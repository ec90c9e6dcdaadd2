//! Batches of copies between host and device, synchronous and queued.

const std = @import("std");
const acl = @import("acl");
const block = @import("../block.zig");
const context = @import("../context.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");
const stream_module = @import("../stream.zig");
const Copy = @import("../copy.zig").Copy;
const Stream = stream_module.Stream;

const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;

/// The arguments that all four batch calls share.
const Batch = struct {
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,

    fn element(batch: *const Batch, index: usize) Copy {
        return .{
            .destination = @intFromPtr(batch.destinations.?[index]),
            .source = @intFromPtr(batch.sources.?[index]),
            .size = batch.sizes.?[index],
            .fault = .batch_copy,
        };
    }

    /// The attribute of an element: the last one that starts at or before it.
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
/// The calls without V2 return the index of the element that failed.
const Form = enum { plain, indexed };

fn batchOf(
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,
) Batch {
    return .{
        .destinations = destinations,
        .rooms = rooms,
        .sources = sources,
        .sizes = sizes,
        .count = count,
        .attributes = attributes,
        .attribute_starts = attribute_starts,
        .attribute_count = attribute_count,
    };
}

pub fn aclrtMemcpyBatch(
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,
    fail_index: ?*usize,
) acl.Error {
    const batch = batchOf(destinations, rooms, sources, sizes, count, attributes, attribute_starts, attribute_count);
    return runNow(batch, fail_index, .indexed);
}

pub fn aclrtMemcpyBatchV2(
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,
) acl.Error {
    const batch = batchOf(destinations, rooms, sources, sizes, count, attributes, attribute_starts, attribute_count);
    return runNow(batch, null, .plain);
}

pub fn aclrtMemcpyBatchAsync(
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,
    fail_index: ?*usize,
    handle: acl.Stream,
) acl.Error {
    const batch = batchOf(destinations, rooms, sources, sizes, count, attributes, attribute_starts, attribute_count);
    return enqueue(batch, fail_index, .indexed, handle);
}

pub fn aclrtMemcpyBatchAsyncV2(
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,
    handle: acl.Stream,
) acl.Error {
    const batch = batchOf(destinations, rooms, sources, sizes, count, attributes, attribute_starts, attribute_count);
    return enqueue(batch, null, .plain, handle);
}

fn runNow(batch: Batch, fail_index: ?*usize, form: Form) acl.Error {
    if (earlyResult(&batch, fail_index, form)) |code| return code;
    var code = checkShape(&batch);
    if (code == acl.code.success and batch.count > max_batch) code = errors.fail(refused, "more than 4096 elements");
    if (code != acl.code.success) return code;
    lock.enter();
    defer lock.leave();
    for (0..batch.count) |index| {
        var copy = batch.element(index);
        if (copy.size == 0) continue;
        code = pinElement(&batch, index, &copy, fail_index);
        if (code != acl.code.success) return code;
        code = copy.runNow();
        if (code != acl.code.success) return code;
    }
    return acl.code.success;
}

fn enqueue(batch: Batch, fail_index: ?*usize, form: Form, handle: acl.Stream) acl.Error {
    if (earlyResult(&batch, fail_index, form)) |code| return code;
    lock.enter();
    defer lock.leave();
    if (stream_module.isStale(handle)) return stream_module.stale();
    var code = checkShape(&batch);
    if (code != acl.code.success) return code;
    for (batch.sizes.?[0..batch.count]) |size| {
        if (size == 0) return errors.fail(refused, "an element has size 0");
    }
    var stream: *Stream = undefined;
    code = context.resolveOwnStream(handle, &stream);
    if (code != acl.code.success) return code;
    for (0..batch.count) |index| {
        var copy = batch.element(index);
        code = pinElement(&batch, index, &copy, fail_index);
        if (code == acl.code.success) code = stream.submitCopy(&copy);
        if (code != acl.code.success) return code;
    }
    return acl.code.success;
}

/// The ACL layer's checks. A result ends the call; null continues it.
fn earlyResult(batch: *const Batch, fail_index: ?*usize, form: Form) ?acl.Error {
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
    if (batch.attribute_count > batch.count) return errors.fail(invalid, "numAttrs exceeds numBatches");
    for (batch.attributes.?[0..batch.attribute_count]) |attribute| {
        if (!std.mem.allEqual(u8, &attribute.rsv, 0)) return errors.fail(invalid, "rsv is not zero");
    }
    return null;
}

fn checkShape(batch: *const Batch) acl.Error {
    if (batch.attribute_count == 0) return errors.fail(refused, "numAttrs is 0");
    const starts = batch.attribute_starts.?[0..batch.attribute_count];
    if (starts[0] != 0) return errors.fail(refused, "attrsIndexes does not begin with 0");
    for (starts[1..], starts[0 .. starts.len - 1]) |start, previous| {
        if (start <= previous or start >= batch.count)
            return errors.fail(refused, "attrsIndexes is not increasing or out of range");
    }
    return acl.code.success;
}

fn pinElement(batch: *const Batch, index: usize, copy: *Copy, fail_index: ?*usize) acl.Error {
    var code = copy.pin();
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

fn matches(pinned: *const block.PinnedRange, location: acl.MemLocation) bool {
    return switch (location.type) {
        acl.MemLocationType.host, acl.MemLocationType.unregistered, acl.MemLocationType.host_numa => pinned.isHost(),
        acl.MemLocationType.device => !pinned.isHost() and pinned.device == location.id,
        else => false,
    };
}
