//! The C ABI of the shim: `libcamem.zig` exports it. Exports validate, delegate and translate; nothing else.
//!
//! Each returns a `Status`. Any thread may call any export at any time, unless its comment names one. Memory behind a
//! pointer is the caller's: the shim reads or writes it during the call and keeps no pointer to it. Out-parameters
//! are written only on success, `failure` only on a failure; all must be non-null unless marked optional. No export
//! prints, exits, throws or calls back. TypeScript's symbol table is generated from this file: run `zig build
//! bindings` after a change.

const std = @import("std");
const acl = @import("acl");
const attach = @import("attach.zig");
const engine = @import("engine.zig");
const files = @import("files.zig");
const loads = @import("loads.zig");
const orders = @import("order.zig");
const plans = @import("plans.zig");
const runtime = @import("runtime.zig");
const segment_groups = @import("segment_groups.zig");
const segments = @import("segment.zig");
const sessions = @import("session.zig");
const status = @import("status.zig");
const tags = @import("tags.zig");
const usage = @import("usage.zig");
const Session = sessions.Session;

pub const Action = plans.Action;
pub const EngineInfo = engine.EngineInfo;
pub const EngineSegment = engine.EngineSegment;
pub const Failure = status.Failure;
pub const FileExtent = files.Extent;
pub const GateState = engine.GateState;
pub const HostInfo = sessions.HostInfo;
pub const LoadPiece = loads.Piece;
pub const LoadProgress = loads.Progress;
pub const MemoryInfo = runtime.MemoryInfo;
pub const OnTouch = engine.OnTouch;
pub const Phase = plans.Phase;
pub const Pin = engine.Pin;
pub const Place = orders.Place;
pub const PlanProgress = plans.PlanProgress;
pub const PlanStep = plans.PlanStep;
pub const RuntimeInfo = runtime.Info;
pub const SegmentGroup = segment_groups.SegmentGroup;
pub const SegmentInfo = segments.Info;
pub const SegmentState = segments.State;
pub const Status = status.Status;
pub const TagUsage = usage.TagUsage;
pub const Written = engine.Written;

pub const longest_tag_bytes = tags.longest_tag_bytes;

pub const plan_verify = optionOf(.{ .verify = true });
pub const plan_pageable = optionOf(.{ .pageable = true });
pub const plan_spill = optionOf(.{ .spill = true });

fn optionOf(comptime options: plans.Options) comptime_int {
    return @as(u32, @bitCast(options));
}

fn planOptions(options: u32) plans.Options {
    return @bitCast(options);
}

fn result(outcome: status.Error!void) i32 {
    return @intFromEnum(if (outcome) |_| Status.ok else |err| status.fromError(err));
}

/// Calls a method of the open session, which stays open meanwhile.
fn call(comptime method: anytype, arguments: anytype) i32 {
    return callTo(.{}, method, arguments);
}

/// As `call`, and writes what the method returns to `targets`: a value to the only one, a struct's fields to one each.
fn callTo(targets: anytype, comptime method: anytype, arguments: anytype) i32 {
    const session = attach.enter() orelse return result(error.NotOpen);
    defer attach.leave();
    const value = @call(.auto, method, .{session} ++ arguments) catch |err| return result(err);
    switch (targets.len) {
        0 => {},
        1 => targets[0].* = value,
        else => inline for (targets, @typeInfo(@TypeOf(value)).@"struct".fields) |target, field| {
            target.* = @field(value, field.name);
        },
    }
    return result({});
}

/// Attaches to AscendCL: opens `path`, or searches where it is null. Each success is paired with one `camem_detach`
/// on the same thread; the attachment of a thread that has ended does not count. Refused as busy while the last
/// attachment is closing.
pub fn camem_attach(path: ?[*:0]const u8, failure: *Failure) callconv(.c) i32 {
    return result(attach.attach(path, failure));
}

/// Gives up an attachment of this thread; the last one cancels a running plan and releases everything on the shim's
/// own thread. Then `closing` is the number that `camem_detach_poll` follows it by, and else 0. All addresses become
/// invalid.
pub fn camem_detach(closing: *u64) callconv(.c) i32 {
    loads.dropAbandoned();
    files.dropAbandoned();
    closing.* = attach.detach() catch |err| return result(err);
    return result({});
}

/// Writes 1 to `done` once a closing has ended. A failure means that something could not be given back: the attachment
/// exists still, and `camem_detach` can be called again by the thread that began the closing.
pub fn camem_detach_poll(closing: u64, done: *u32, failure: *Failure) callconv(.c) i32 {
    done.* = 1;
    const ended = attach.pollClose(closing, failure) catch |err| return result(err);
    done.* = @intFromBool(ended);
    return result({});
}

/// Copies the report of the last search for a library, one line a path ("path TAB result"), cut to `capacity` bytes.
pub fn camem_load_report(buffer: [*]u8, capacity: u64, length: *u64) callconv(.c) i32 {
    length.* = attach.copyReport(buffer[0..capacity]);
    return result({});
}

/// AscendCL as it was found: versions, devices, and who initialised it.
pub fn camem_runtime_info(info: *RuntimeInfo) callconv(.c) i32 {
    return callTo(.{info}, Session.runtimeInfo, .{});
}

/// Copies the names of the AscendCL symbols, one a line, "required" or "optional" and "present" or "absent" after tabs.
pub fn camem_symbols(buffer: [*]u8, capacity: u64, length: *u64) callconv(.c) i32 {
    return callTo(.{length}, Session.copySymbols, .{buffer[0..capacity]});
}

/// Free and total bytes of a device (aclrtGetMemInfo) and the granularity of its mappings.
pub fn camem_memory_info(device: u32, info: *MemoryInfo, failure: *Failure) callconv(.c) i32 {
    return callTo(.{info}, Session.memoryInfo, .{ device, failure });
}

/// The number of a tag, which is given one on first use. `name` has `length` bytes of UTF-8, 1 to `longest_tag_bytes`.
pub fn camem_tag_intern(name: [*]const u8, length: u64, tag: *u32) callconv(.c) i32 {
    return callTo(.{tag}, Session.internTag, .{name[0..length]});
}

/// The number of a tag that was interned. `name` has `length` bytes.
pub fn camem_tag_find(name: [*]const u8, length: u64, tag: *u32) callconv(.c) i32 {
    return callTo(.{tag}, Session.findTag, .{name[0..length]});
}

/// Copies a tag's name into `buffer`.
pub fn camem_tag_name(tag: u32, buffer: *[longest_tag_bytes]u8, length: *u64) callconv(.c) i32 {
    return callTo(.{length}, Session.copyTagName, .{ tag, buffer });
}

/// A tag's policy, a word that the shim keeps for its callers; 0 until one is set.
pub fn camem_tag_policy(tag: u32, policy: *u64) callconv(.c) i32 {
    return callTo(.{policy}, Session.tagPolicy, .{tag});
}

/// Copies the policies of all tags, by number, into `buffer`, which has room for `capacity` words, and writes how many
/// tags there are to `count`. Where that is more than `capacity`, nothing is copied.
pub fn camem_tag_policies(buffer: [*]u64, capacity: u64, count: *u64) callconv(.c) i32 {
    return callTo(.{count}, Session.tagPolicies, .{buffer[0..capacity]});
}

/// Replaces a tag's policy, for every thread. Refused as stale when the policy is no longer `expected`.
pub fn camem_tag_set_policy(tag: u32, expected: u64, policy: u64) callconv(.c) i32 {
    return call(Session.setTagPolicy, .{ tag, expected, policy });
}

/// From here until `camem_region_leave` with the token, `my_malloc` allocates under `tag`, on this thread and on
/// threads without a region. `parent` is the token of the region that the caller is in, or 0. Refused as busy while
/// this thread has a region of another tag open that the caller is not in. The region of a thread that has ended is
/// closed.
pub fn camem_region_enter(tag: u32, parent: u64, token: *u64) callconv(.c) i32 {
    return callTo(.{token}, Session.enterRegion, .{ tag, parent });
}

/// Ends a region; any thread may do so.
pub fn camem_region_leave(token: u64) callconv(.c) i32 {
    return call(Session.leaveRegion, .{token});
}

/// A new mapped segment of at least `size_bytes`. The caller owns it until `camem_segment_free`. An address may be
/// given out again after that, an id never: calls that name a segment take both.
pub fn camem_segment_allocate(
    device: u32,
    tag: u32,
    size_bytes: u64,
    address: *u64,
    segment_id: *u64,
    failure: *Failure,
) callconv(.c) i32 {
    return callTo(.{ address, segment_id }, Session.allocate, .{ device, tag, size_bytes, failure });
}

/// Waits for the segment's device and gives the segment back, asleep or awake. While a plan moves it this returns at
/// once and the plan's thread releases it afterwards. After a failure the same call can be made again.
pub fn camem_segment_free(address: u64, segment_id: u64, failure: *Failure) callconv(.c) i32 {
    return call(Session.free, .{ address, segment_id, failure });
}

/// The state of one segment.
pub fn camem_segment_info(address: u64, segment_id: u64, info: *SegmentInfo) callconv(.c) i32 {
    return callTo(.{info}, Session.segmentInfo, .{ address, segment_id });
}

/// Copies the table of segments, in the order of their ids, into `buffer`, which has room for `capacity` entries, and
/// writes how many there are to `count`. Where that is more than `capacity`, nothing is copied.
pub fn camem_snapshot(buffer: [*]SegmentInfo, capacity: u64, count: *u64) callconv(.c) i32 {
    return callTo(.{count}, Session.snapshot, .{buffer[0..capacity]});
}

/// Sums up the segments with ids up to `last_segment_id` for planning, in the order of the groups' first segments, into
/// `buffer`, which has room for `capacity` entries, and writes how many there are to `count` and the table's version to
/// `version`. Where there are more than `capacity`, the buffer is without meaning.
pub fn camem_segment_groups(
    last_segment_id: u64,
    buffer: [*]SegmentGroup,
    capacity: u64,
    count: *u64,
    version: *u64,
) callconv(.c) i32 {
    return callTo(.{ count, version }, Session.segmentGroups, .{ last_segment_id, buffer[0..capacity] });
}

/// Sums up the table by tag into `buffer`, which has room for `capacity` entries, and writes how many tags there are to
/// `count`; tags without a segment are among them. Where that is more than `capacity`, nothing is copied.
pub fn camem_usage(buffer: [*]TagUsage, capacity: u64, count: *u64) callconv(.c) i32 {
    return callTo(.{count}, Session.tagUsage, .{buffer[0..capacity]});
}

/// Copies `size_bytes` from host memory at `source` into a mapped segment (aclrtMemcpy); blocks until done.
pub fn camem_segment_write(
    address: u64,
    segment_id: u64,
    offset_bytes: u64,
    source: *const anyopaque,
    size_bytes: u64,
    failure: *Failure,
) callconv(.c) i32 {
    return copy(address, segment_id, offset_bytes, size_bytes, .{ .write = source }, failure);
}

/// Copies `size_bytes` out of a mapped segment into host memory at `target` (aclrtMemcpy); blocks until done.
pub fn camem_segment_read(
    address: u64,
    segment_id: u64,
    offset_bytes: u64,
    target: *anyopaque,
    size_bytes: u64,
    failure: *Failure,
) callconv(.c) i32 {
    return copy(address, segment_id, offset_bytes, size_bytes, .{ .read = target }, failure);
}

/// Sets `size_bytes` of a mapped segment to the low byte of `value` (aclrtMemset); blocks until done.
pub fn camem_segment_fill(
    address: u64,
    segment_id: u64,
    offset_bytes: u64,
    size_bytes: u64,
    value: i32,
    failure: *Failure,
) callconv(.c) i32 {
    return copy(address, segment_id, offset_bytes, size_bytes, .{ .fill = value }, failure);
}

fn copy(
    address: u64,
    segment_id: u64,
    offset_bytes: u64,
    size_bytes: u64,
    what: Session.Copy,
    failure: *Failure,
) i32 {
    const name: Session.Name = .{ .address = address, .segment_id = segment_id };
    return call(Session.copy, .{ name, offset_bytes, size_bytes, what, failure });
}

/// Copies `size_bytes` of the backup of a segment into `target`; blocks while a file is read. Makes no AscendCL call,
/// so it works when the device is lost. Fails when a checkpoint has changed; then `target` is undefined.
pub fn camem_backup_read(
    address: u64,
    segment_id: u64,
    offset_bytes: u64,
    target: [*]u8,
    size_bytes: u64,
    failure: *Failure,
) callconv(.c) i32 {
    const name: Session.Name = .{ .address = address, .segment_id = segment_id };
    return call(Session.readBackup, .{ name, offset_bytes, target[0..size_bytes], failure });
}

/// Makes the file behind `descriptor` known as a checkpoint: from here on it must not be written to. The descriptor
/// stays the caller's. `checkpoint` is closed by `camem_checkpoint_close`, and the file lives on while segments have
/// content in it.
pub fn camem_checkpoint_open(descriptor: i32, checkpoint: *u64, failure: *Failure) callconv(.c) i32 {
    checkpoint.* = files.openCheckpoint(descriptor, failure) catch |err| return result(err);
    return result({});
}

/// Lets go of a checkpoint. Call it once for each `camem_checkpoint_open`.
pub fn camem_checkpoint_close(checkpoint: u64) callconv(.c) i32 {
    return result(files.closeCheckpoint(checkpoint));
}

/// Says that the content of a mapped segment is in `count` extents of a checkpoint: to sleep, it need not be copied,
/// and a wake-up reads it from there. Writes to the segment are refused from here on. The extents are copied; they
/// are in order and inside the segment and the checkpoint, and do not overlap. Fails when the checkpoint has changed
/// since it was opened. Refused as asleep when the segment's `discards` are no longer the given ones: its content was
/// lost since.
pub fn camem_segment_use_checkpoint(
    address: u64,
    segment_id: u64,
    discards: u32,
    checkpoint: u64,
    extents: [*]const FileExtent,
    count: u64,
    failure: *Failure,
) callconv(.c) i32 {
    const name: Session.Name = .{ .address = address, .segment_id = segment_id };
    return call(Session.useCheckpoint, .{ name, discards, checkpoint, extents[0..count], failure });
}

/// Starts to read `checkpoint_count` checkpoints into mapped segments of `device`, on threads of the shim:
/// `piece_count` pieces, in the order of the checkpoints, each inside its checkpoint and its segment and none empty.
/// The arguments are copied; the checkpoints may be closed at once. A sleep waits for one copy (aclrtMemcpy) at most.
/// The caller follows the load by `camem_load_poll` until it has ended. Closing the last attachment cancels it.
pub fn camem_load_start(
    device: u32,
    checkpoints: [*]const u64,
    checkpoint_count: u64,
    pieces: [*]const LoadPiece,
    piece_count: u64,
    load: *u64,
) callconv(.c) i32 {
    load.* = loads.start(device, checkpoints[0..checkpoint_count], pieces[0..piece_count]) catch |err|
        return result(err);
    return result({});
}

/// How far a load is. Its own outcome is in `progress.status` once `progress.done` is 1; `failure` is then written if
/// it failed, and the load is forgotten: further calls are refused as stale.
pub fn camem_load_poll(load: u64, progress: *LoadProgress, failure: *Failure) callconv(.c) i32 {
    progress.* = loads.poll(load, failure) catch |err| return result(err);
    return result({});
}

/// Asks a load to stop. What it has written stays written.
pub fn camem_load_cancel(load: u64) callconv(.c) i32 {
    return result(loads.cancel(load));
}

/// With `immutable` 1 the content of every segment of a tag that has any is immutable: writes are refused, and a
/// wake-up keeps its backup. With 0 that ends, and a backup of awake memory is dropped; refused while memory of the
/// tag sleeps.
pub fn camem_tag_set_immutable(tag: u32, immutable: u32) callconv(.c) i32 {
    return call(Session.setTagImmutable, .{ tag, immutable == 1 });
}

/// The page-locked host memory that the shim owns.
pub fn camem_host_info(info: *HostInfo) callconv(.c) i32 {
    return callTo(.{info}, Session.hostInfo, .{});
}

/// How much page-locked memory is kept while nothing needs it. Takes effect with the next plan.
pub fn camem_host_retain(size_bytes: u64) callconv(.c) i32 {
    return call(Session.retainHost, .{size_bytes});
}

/// The folder that spill files are made in: `length` bytes, fewer than Linux's PATH_MAX.
pub fn camem_spill_folder(path: [*]const u8, length: u64) callconv(.c) i32 {
    return call(Session.setSpillFolder, .{path[0..length]});
}

/// Starts a plan that page-locks host memory (aclrtMallocHost) until `free_bytes` of it are free and keeps that for
/// the next sleep, and gives back what is neither kept nor retained. With `plan_pageable` or `plan_spill` in `options`
/// it succeeds with less where AscendCL refuses to page-lock more. Followed and refused as `camem_plan_submit`.
pub fn camem_host_prepare(device: u32, free_bytes: u64, options: u32, ticket: *u64) callconv(.c) i32 {
    return callTo(.{ticket}, Session.prepareHost, .{ device, free_bytes, planOptions(options) });
}

/// Starts a plan of `count` steps, one for each group that it concerns, on the shim's thread: all of a sleep
/// (offload, discard, release) or all of a wake-up (restore, remap). Segments with ids beyond `last_segment_id` are
/// left as they are; what was freed since `version` is left out. `options` is a sum of `plan_verify`
/// and the like: with it a sleep takes a checksum of each backup; a wake-up compares those that were taken. With
/// `plan_pageable` and `plan_spill` backups that AscendCL refuses to page-lock go to ordinary memory and to the spill
/// folder. The steps are copied. Refused as busy while another plan runs,
/// as stale when the table has another version or nothing is left to do; then nothing has changed.
pub fn camem_plan_submit(
    steps: [*]const PlanStep,
    count: u64,
    last_segment_id: u64,
    version: u64,
    options: u32,
    ticket: *u64,
) callconv(.c) i32 {
    const basis: plans.Basis = .{ .last_segment_id = last_segment_id, .version = version };
    return callTo(.{ticket}, Session.submitPlan, .{ steps[0..count], basis, planOptions(options) });
}

/// As `camem_plan_submit`, for a wake-up that copies content back in an order: all of group 0 first, up to
/// `group_count` - 1. `places` has `place_count` entries, which are copied; a segment with several is in the lowest of
/// its groups, one without any in the last. All memory is mapped before anything is copied.
pub fn camem_plan_submit_ordered(
    steps: [*]const PlanStep,
    count: u64,
    last_segment_id: u64,
    version: u64,
    options: u32,
    places: [*]const Place,
    place_count: u64,
    group_count: u32,
    ticket: *u64,
) callconv(.c) i32 {
    const basis: plans.Basis = .{ .last_segment_id = last_segment_id, .version = version };
    const order: orders.Wanted = .{ .places = places[0..place_count], .groups = group_count };
    return callTo(.{ticket}, Session.submitOrdered, .{ steps[0..count], basis, planOptions(options), order });
}

/// Makes an engine's `stream` wait (aclrtStreamWaitEvent) until a group of an ordered plan has its content. Returns at
/// once: refused as busy while copies of the group have not been given to the device yet. Does nothing where the
/// content is there. On the thread that uses the stream.
pub fn camem_plan_stream_wait(ticket: u64, group: u32, stream: u64, failure: *Failure) callconv(.c) i32 {
    return call(Session.streamWait, .{ ticket, group, @as(acl.Stream, @ptrFromInt(stream)), failure });
}

/// How far a plan is. Its own outcome is in `progress.status` once its phase is done; `failure` is then written if it
/// failed.
pub fn camem_plan_poll(ticket: u64, progress: *PlanProgress, failure: *Failure) callconv(.c) i32 {
    return callTo(.{progress}, Session.pollPlan, .{ ticket, failure });
}

/// Returns when a plan is done, or after `timeout_ns` at the latest.
pub fn camem_plan_wait(ticket: u64, timeout_ns: u64) callconv(.c) i32 {
    return call(Session.waitForPlan, .{ ticket, timeout_ns });
}

/// Asks a plan to stop and undo itself. It completes all the same where it is past its point of no return.
pub fn camem_plan_cancel(ticket: u64) callconv(.c) i32 {
    return call(Session.cancelPlan, .{ticket});
}
