//! Every symbol that libcamem.so exports. Exports validate, delegate and translate; nothing else.
//!
//! Each returns a `Status`. Out-parameters belong to the caller and are written only on success, `failure` only on a failure;
//! all must be non-null unless marked optional. Any thread may call any export at any time. None prints, exits, throws or
//! calls back. TypeScript's symbol table is generated from this file: run `zig build bindings` after a change.

const std = @import("std");
const acl = @import("acl");
const executor = @import("executor.zig");
const files = @import("files.zig");
const heap = @import("heap.zig");
const loader = @import("loader.zig");
const plans = @import("plans.zig");
const pluggable = @import("pluggable.zig");
const portions = @import("portions.zig");
const registry = @import("registry.zig");
const runtime = @import("runtime.zig");
const session = @import("session.zig");
const status = @import("status.zig");

pub const Action = plans.Action;
pub const Failure = status.Failure;
pub const FileExtent = files.Extent;
pub const Phase = plans.Phase;
pub const PlanProgress = plans.PlanProgress;
pub const PlanStep = plans.PlanStep;
pub const Portion = portions.Portion;
pub const Status = status.Status;

pub const SegmentState = registry.State;

pub const SegmentInfo = extern struct {
    address: u64,
    segment_id: u64,
    /// Bytes of device memory when mapped.
    size_bytes: u64,
    /// Bytes of device memory held now, also where giving them back failed.
    committed_bytes: u64,
    /// Bytes of page-locked host memory that hold its content.
    host_bytes: u64,
    /// Where they begin; 0 without any. They need not lie next to each other.
    host_address: u64,
    /// Bytes of a spill file that hold its content.
    spilled_bytes: u64,
    /// Bytes of a checkpoint that are its content.
    checkpoint_bytes: u64,
    device: u32,
    tag: u32,
    /// A `SegmentState`.
    state: u32,
    /// 1 while a plan or a release owns it.
    moving: u32,
    /// 1 when it was freed and its release is still to come.
    doomed: u32,
    /// 1 when it is asleep and device memory could not be given back.
    unreleased: u32,
    /// 1 when it is awake and its backup is the same as its content.
    clean: u32,
    /// 1 when writes to it are refused.
    sealed: u32,
    reserved: u32 = 0,
};

pub const RuntimeInfo = extern struct {
    /// NUL-terminated; texts are empty where AscendCL does not tell.
    library_path: [1024]u8,
    soc_name: [64]u8,
    cann_version: [128]u8,
    acl_major: i32,
    acl_minor: i32,
    acl_patch: i32,
    device_count: u32,
    /// 1 when AscendCL was initialised by somebody else in this process.
    guest: u32,
    reserved: u32 = 0,
};

/// Sums over the segments of one tag, in bytes as `SegmentInfo` has them.
pub const TagUsage = extern struct {
    tag: u64,
    segments: u64 = 0,
    awake_segments: u64 = 0,
    size_bytes: u64 = 0,
    mapped_bytes: u64 = 0,
    discarded_bytes: u64 = 0,
    host_bytes: u64 = 0,
    spilled_bytes: u64 = 0,
    checkpoint_bytes: u64 = 0,
};

/// Page-locked host memory. All of it is `held`; what is not `free` holds backups.
pub const HostInfo = extern struct {
    held_bytes: u64,
    free_bytes: u64,
    /// Of what is free, what is kept for the next sleep.
    reserved_bytes: u64,
    /// What a plan takes on each device while it moves content to or from a file.
    staging_bytes: u64,
};

pub const MemoryInfo = extern struct { free_bytes: u64, total_bytes: u64, granularity_bytes: u64 };

fn result(outcome: status.Error!void) i32 {
    return @intFromEnum(if (outcome) |_| Status.ok else |err| status.fromError(err));
}

/// Attaches to AscendCL: opens `path`, or searches where it is null. The strings stay the caller's. Each success is to be
/// paired with one `camem_detach` on the same thread; the attachment of a thread that has ended does not count. Refused as
/// busy while the last attachment is closing.
pub export fn camem_attach(path: ?[*:0]const u8, failure: *Failure) callconv(.c) i32 {
    return result(session.attach(path, failure));
}

/// Gives up an attachment of this thread; the last one cancels a running plan and releases everything on the shim's own
/// thread. Then `closing` is the number that `camem_detach_poll` follows it by, and else 0. All addresses become invalid.
pub export fn camem_detach(closing: *u64) callconv(.c) i32 {
    closing.* = session.detach() catch |err| return result(err);
    return result({});
}

/// Writes 1 to `done` once a closing has ended. A failure means that something could not be given back: the attachment
/// exists still, and `camem_detach` can be called again.
pub export fn camem_detach_poll(closing: u64, done: *u32, failure: *Failure) callconv(.c) i32 {
    done.* = 1;
    const ended = session.pollClose(closing, failure) catch |err| return result(err);
    done.* = @intFromBool(ended);
    return result({});
}

/// Copies the report of the last search for a library, one line a path ("path TAB result"), cut to `capacity` bytes.
pub export fn camem_load_report(buffer: [*]u8, capacity: u64, length: *u64) callconv(.c) i32 {
    length.* = session.copyReport(buffer[0..capacity]);
    return result({});
}

pub export fn camem_runtime_info(info: *RuntimeInfo) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    const api = &open.runtime.library.api;
    info.* = std.mem.zeroes(RuntimeInfo);
    status.copyText(&info.library_path, open.runtime.library.pathText());
    if (api.aclrtGetSocName) |socName| {
        if (socName()) |name| status.copyText(&info.soc_name, std.mem.span(name));
    }
    if (api.aclrtGetVersion) |version| _ = version(&info.acl_major, &info.acl_minor, &info.acl_patch);
    if (api.aclsysGetVersionStr) |versionText| {
        var package = "runtime".*;
        _ = versionText(&package, &info.cann_version);
        info.cann_version[info.cann_version.len - 1] = 0;
    }
    info.device_count = open.runtime.device_count;
    info.guest = @intFromBool(open.runtime.initialization != .ours);
    return result({});
}

/// Copies the names of the AscendCL symbols, one a line, "required" or "optional" and "present" or "absent" after tabs.
pub export fn camem_symbols(buffer: [*]u8, capacity: u64, length: *u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    var used: usize = 0;
    inline for (loader.api_fields) |field| {
        const optional = comptime loader.isOptional(field);
        const present = if (optional) @field(open.runtime.library.api, field.name) != null else true;
        const kind = if (optional) "optional" else "required";
        const line = std.fmt.bufPrint(buffer[used..capacity], "{s}\t{s}\t{s}\n", .{ field.name, kind, if (present) "present" else "absent" }) catch
            return result(error.InvalidArgument);
        used += line.len;
    }
    length.* = used;
    return result({});
}

/// Free and total bytes of a device (aclrtGetMemInfo) and the granularity of its mappings.
pub export fn camem_memory_info(device: u32, info: *MemoryInfo, failure: *Failure) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    const granularity = open.runtime.granularityOf(device, failure) catch |err| return result(err);
    var free: u64 = 0;
    var total: u64 = 0;
    open.runtime.memoryInfo(device, &free, &total, failure) catch |err| return result(err);
    info.* = .{ .free_bytes = free, .total_bytes = total, .granularity_bytes = granularity };
    return result({});
}

/// The number of a tag, which is given one on first use. `name` has `length` bytes of UTF-8, 1 to 64.
pub export fn camem_tag_intern(name: [*]const u8, length: u64, tag: *u32) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    open.registry.mutex.lock();
    defer open.registry.mutex.unlock();
    tag.* = open.registry.tags.intern(name[0..length]) catch |err| return result(err);
    return result({});
}

/// Copies a tag's name into `buffer`, which has room for 64 bytes.
pub export fn camem_tag_name(tag: u32, buffer: [*]u8, length: *u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    open.registry.mutex.lock();
    defer open.registry.mutex.unlock();
    if (tag >= open.registry.tags.names.items.len) return result(error.UnknownTag);
    const name = open.registry.tags.names.items[tag];
    @memcpy(buffer[0..name.len], name);
    length.* = name.len;
    return result({});
}

/// From here until `camem_region_leave` with the token, `my_malloc` allocates under `tag`, on every thread.
pub export fn camem_region_enter(tag: u32, token: *u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    open.registry.mutex.lock();
    defer open.registry.mutex.unlock();
    token.* = open.registry.tags.enter(tag) catch |err| return result(err);
    return result({});
}

pub export fn camem_region_leave(token: u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    open.registry.mutex.lock();
    defer open.registry.mutex.unlock();
    return result(open.registry.tags.leave(token));
}

/// A new mapped segment of at least `size_bytes`. The caller owns it until `camem_segment_free`. An address may be given out
/// again after that, an id never: calls that name a segment take both.
pub export fn camem_segment_allocate(device: u32, tag: u32, size_bytes: u64, address: *u64, segment_id: *u64, failure: *Failure) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    const allocation = open.allocate(device, tag, size_bytes, failure) catch |err| return result(err);
    address.* = allocation.address;
    segment_id.* = allocation.segment_id;
    return result({});
}

/// Waits for the segment's device and gives the segment back, asleep or awake. While a plan moves it this returns at once
/// and the plan's thread releases it afterwards. After a failure the same call can be made again.
pub export fn camem_segment_free(address: u64, segment_id: u64, failure: *Failure) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    return result(open.free(address, segment_id, failure));
}

/// The state of one segment.
pub export fn camem_segment_info(address: u64, segment_id: u64, info: *SegmentInfo) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    open.registry.mutex.lock();
    defer open.registry.mutex.unlock();
    const segment = open.registry.find(address, segment_id) catch |err| return result(err);
    info.* = describe(segment);
    return result({});
}

/// Copies the table of segments, in the order of their ids, into `buffer`, which has room for `capacity` entries, and writes
/// how many there are to `count`. Where that is more than `capacity`, nothing is copied.
pub export fn camem_snapshot(buffer: [*]SegmentInfo, capacity: u64, count: *u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    open.registry.mutex.lock();
    defer open.registry.mutex.unlock();
    count.* = open.registry.segmentCount();
    if (count.* > capacity) return result({});
    const segments = open.registry.inOrder() catch |err| return result(err);
    defer heap.allocator.free(segments);
    for (segments, 0..) |segment, index| buffer[index] = describe(segment);
    return result({});
}

/// Sums up the segments with ids up to `last_segment_id` for planning, in the order of the portions' first segments, into
/// `buffer`, which has room for `capacity` entries, and writes how many there are to `count` and the table's version to
/// `version`. Where there are more than `capacity`, none is copied.
pub export fn camem_portions(last_segment_id: u64, buffer: [*]Portion, capacity: u64, count: *u64, version: *u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    open.registry.mutex.lock();
    defer open.registry.mutex.unlock();
    const found = portions.collect(&open.registry, last_segment_id) catch |err| return result(err);
    defer heap.allocator.free(found);
    count.* = found.len;
    version.* = open.registry.version;
    if (count.* <= capacity) @memcpy(buffer[0..found.len], found);
    return result({});
}

/// Sums up the table by tag into `buffer`, which has room for `capacity` entries, and writes how many tags there are to
/// `count`; tags without a segment are among them. Where that is more than `capacity`, nothing is copied.
pub export fn camem_usage(buffer: [*]TagUsage, capacity: u64, count: *u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    open.registry.mutex.lock();
    defer open.registry.mutex.unlock();
    count.* = open.registry.tags.names.items.len;
    if (count.* > capacity) return result({});
    for (buffer[0..count.*], 0..) |*usage, tag| usage.* = .{ .tag = @intCast(tag) };
    var iterator = open.registry.segments.valueIterator();
    while (iterator.next()) |entry| {
        const segment = describe(entry.*);
        if (segment.doomed == 1) continue;
        const usage = &buffer[segment.tag];
        usage.segments += 1;
        usage.size_bytes += segment.size_bytes;
        switch (@as(SegmentState, @enumFromInt(segment.state))) {
            .mapped => {
                usage.awake_segments += 1;
                usage.mapped_bytes += segment.size_bytes;
            },
            .discarded => usage.discarded_bytes += segment.size_bytes,
            .offloaded => {},
        }
        usage.host_bytes += segment.host_bytes;
        usage.spilled_bytes += segment.spilled_bytes;
        usage.checkpoint_bytes += segment.checkpoint_bytes;
    }
    return result({});
}

fn describe(segment: *const registry.Segment) SegmentInfo {
    return .{
        .address = segment.address,
        .segment_id = segment.id,
        .size_bytes = segment.size_bytes,
        .committed_bytes = segment.committedBytes(),
        .host_bytes = segment.backup.hostBytes(),
        .host_address = if (segment.backup == .host) @intFromPtr(segment.backup.host[0].memory()) else 0,
        .spilled_bytes = if (segment.backup.isSpill()) segment.backup.fileBytes() else 0,
        .checkpoint_bytes = if (segment.backup.isCheckpoint()) segment.backup.fileBytes() else 0,
        .device = segment.device,
        .tag = segment.tag,
        .state = @intFromEnum(segment.state()),
        .moving = @intFromBool(segment.moving),
        .doomed = @intFromBool(segment.doomed),
        .unreleased = @intFromBool(segment.isUnreleased()),
        .clean = @intFromBool(segment.isClean()),
        .sealed = @intFromBool(segment.sealed),
    };
}

/// Copies `size_bytes` from host memory at `source` into a mapped segment (aclrtMemcpy); blocks until done.
pub export fn camem_segment_write(address: u64, segment_id: u64, offset_bytes: u64, source: *const anyopaque, size_bytes: u64, failure: *Failure) callconv(.c) i32 {
    return copySegment(address, segment_id, offset_bytes, size_bytes, failure, .{ .write = source });
}

/// Copies `size_bytes` out of a mapped segment into host memory at `target` (aclrtMemcpy); blocks until done.
pub export fn camem_segment_read(address: u64, segment_id: u64, offset_bytes: u64, target: *anyopaque, size_bytes: u64, failure: *Failure) callconv(.c) i32 {
    return copySegment(address, segment_id, offset_bytes, size_bytes, failure, .{ .read = target });
}

/// Sets `size_bytes` of a mapped segment to the low byte of `value` (aclrtMemset); blocks until done.
pub export fn camem_segment_fill(address: u64, segment_id: u64, offset_bytes: u64, size_bytes: u64, value: i32, failure: *Failure) callconv(.c) i32 {
    return copySegment(address, segment_id, offset_bytes, size_bytes, failure, .{ .fill = value });
}

const Access = union(enum) { write: *const anyopaque, read: *anyopaque, fill: i32 };

fn copySegment(address: u64, segment_id: u64, offset_bytes: u64, size_bytes: u64, failure: *Failure, access: Access) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    const segment = open.registry.pin(address, segment_id, offset_bytes, size_bytes, if (access == .read) .reading else .writing) catch |err| return result(err);
    defer open.registry.unpin(segment);
    if (size_bytes == 0) return result({});
    const scope = runtime.Scope.enter(&open.runtime, segment.device, failure) catch |err| return result(err);
    const api = &open.runtime.library.api;
    const start = address + offset_bytes;
    const device: *anyopaque = @ptrFromInt(start);
    const call, const code = switch (access) {
        .write => |source| .{ "aclrtMemcpy", api.aclrtMemcpy(device, size_bytes, source, size_bytes, acl.MemcpyKind.host_to_device) },
        .read => |target| .{ "aclrtMemcpy", api.aclrtMemcpy(target, size_bytes, device, size_bytes, acl.MemcpyKind.device_to_host) },
        .fill => |value| .{ "aclrtMemset", api.aclrtMemset(device, size_bytes, value, size_bytes) },
    };
    open.runtime.check(call, code, start, size_bytes, failure) catch |err| {
        scope.abandon();
        return result(err);
    };
    return result(scope.leave(failure));
}

/// Copies `size_bytes` of the backup of a segment that is offloaded into `target`; blocks while a file is read. Makes no
/// AscendCL call, so it works when the device is lost.
pub export fn camem_backup_read(address: u64, segment_id: u64, offset_bytes: u64, target: [*]u8, size_bytes: u64, failure: *Failure) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    const segment = open.registry.pinBackup(address, segment_id, offset_bytes, size_bytes) catch |err| return result(err);
    defer open.registry.unpin(segment);
    return result(segment.backup.read(segment.size_bytes, offset_bytes, target[0..size_bytes], failure));
}

/// Makes the file behind `descriptor` known as a checkpoint: from here on it must not be written to. The descriptor stays the
/// caller's; `checkpoint` is to be closed by `camem_checkpoint_close`, and lives on while segments have their content in it.
pub export fn camem_checkpoint_open(descriptor: i32, checkpoint: *u64, failure: *Failure) callconv(.c) i32 {
    checkpoint.* = files.openCheckpoint(descriptor, failure) catch |err| return result(err);
    return result({});
}

/// Lets go of a checkpoint. Call it once for each `camem_checkpoint_open`.
pub export fn camem_checkpoint_close(checkpoint: u64) callconv(.c) i32 {
    return result(files.closeCheckpoint(checkpoint));
}

/// Says that the content of a mapped segment is in `count` extents of a checkpoint: to sleep, it need not be copied, and a
/// wake-up reads it from there. Writes to the segment are refused from here on. The extents are copied; they are in order and
/// inside the segment and do not overlap. Fails when the checkpoint has changed since it was opened.
pub export fn camem_segment_use_checkpoint(address: u64, segment_id: u64, checkpoint: u64, extents: [*]const FileExtent, count: u64, failure: *Failure) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    return result(open.useCheckpoint(address, segment_id, checkpoint, extents[0..count], failure));
}

/// With `sealed` 1 the content of every segment of a tag that has any is final: writes are refused, and a plan's step may
/// keep its backup. With 0 that ends, and a backup of awake memory is dropped; refused while memory of the tag sleeps.
pub export fn camem_tag_seal(tag: u32, sealed: u32) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    return result(open.seal(tag, sealed == 1));
}

pub export fn camem_host_info(info: *HostInfo) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    const counts = open.pool.counts();
    info.* = .{ .held_bytes = counts.held_bytes, .free_bytes = counts.free_bytes, .reserved_bytes = counts.reserved_bytes, .staging_bytes = executor.staging_bytes };
    return result({});
}

/// How much page-locked memory is kept while nothing needs it. Takes effect with the next plan.
pub export fn camem_host_retain(size_bytes: u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    open.pool.retain(size_bytes);
    return result({});
}

/// The folder that spill files are made in: `length` bytes, fewer than 1024.
pub export fn camem_spill_folder(path: [*]const u8, length: u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    return result(open.executor.setSpillFolder(path[0..length]));
}

/// Starts a plan that page-locks host memory (aclrtMallocHost) until `free_bytes` of it are free and keeps that for the next
/// sleep, and gives back what is neither kept nor retained. Followed and refused as `camem_plan_submit`.
pub export fn camem_host_prepare(device: u32, free_bytes: u64, ticket: *u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    ticket.* = open.executor.submitPreparation(device, free_bytes) catch |err| return result(err);
    return result({});
}

/// Starts a plan of `count` steps, one for each portion that it concerns, on the shim's thread: all of a sleep (offload,
/// discard, release) or all of a wake-up (restore, remap). Segments with ids beyond `last_segment_id` are left as they are; what
/// was freed since `version` is left out. With `verify` 1 a sleep takes a checksum of each backup; a wake-up compares those that
/// were taken. The steps are copied. Refused as busy while another plan runs, as stale when the table has another version or
/// nothing is left to do; then nothing has changed.
pub export fn camem_plan_submit(steps: [*]const PlanStep, count: u64, last_segment_id: u64, version: u64, verify: u32, ticket: *u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    ticket.* = open.executor.submit(steps[0..count], .{ .last_segment_id = last_segment_id, .version = version }, verify == 1) catch |err| return result(err);
    return result({});
}

/// How far a plan is. Its own outcome is in `progress.status` once its phase is done; `failure` is then written if it failed.
pub export fn camem_plan_poll(ticket: u64, progress: *PlanProgress, failure: *Failure) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    return result(open.executor.poll(ticket, progress, failure));
}

/// Returns when a plan is done, or after `timeout_ns` at the latest.
pub export fn camem_plan_wait(ticket: u64, timeout_ns: u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    return result(open.executor.wait(ticket, timeout_ns));
}

/// Asks a plan to stop and undo itself. It completes all the same where it is past its point of no return.
pub export fn camem_plan_cancel(ticket: u64) callconv(.c) i32 {
    const open = session.enter() orelse return result(error.NotOpen);
    defer session.leave();
    return result(open.executor.cancel(ticket));
}

comptime {
    @export(&pluggable.my_malloc, .{ .name = "my_malloc" });
    @export(&pluggable.my_free, .{ .name = "my_free" });
}
