//! Pins memory that others may use from now on: it leaves the table of segments and stays on the device.

const acl = @import("acl");
const core = @import("core");
const program_memory = core.program_memory;
const handles = @import("handles.zig");
const memory = @import("memory.zig");
const passage = @import("passage.zig");
const refusal = @import("refusal.zig");
const start = @import("start.zig");
const Session = core.session.Session;

/// What an attempt with awake memory ended with.
pub const Attempt = union(enum) {
    done: acl.Error,
    /// A plan has claimed this segment.
    moving: struct { address: u64, segment_id: u64 },
};

/// Calls `attempt.run` inside the gate until no plan is in its way.
pub fn whileAwake(session: *Session, attempt: anytype) acl.Error {
    while (true) {
        if (!passage.enter()) return refusal.asleep;
        const outcome: Attempt = attempt.run(session);
        passage.leave();
        switch (outcome) {
            .done => |code| return code,
            .moving => |segment| passage.waitWhileMoving(session, segment.address, segment.segment_id),
        }
    }
}

/// Exports physical memory, which is pinned if that succeeds.
pub fn shareHandle(handle: acl.DrvMemHandle, exporting: anytype) acl.Error {
    if (!handles.isVirtual(handle)) return exporting.run(handle);
    const session = start.current() orelse return refusal.stale_handle;
    const Share = struct {
        handle: acl.DrvMemHandle,
        exporting: @TypeOf(exporting),

        pub fn run(self: @This(), open: *Session) Attempt {
            handles.mutex.lock();
            defer handles.mutex.unlock();
            const own = handles.get(self.handle) orelse return .{ .done = refusal.stale_handle };
            if (!own.isSegment()) {
                const code = self.exporting.run(own.physical);
                if (code == acl.code.success) own.pinned = .exported;
                return .{ .done = code };
            }
            const segment = program_memory.claimAny(&open.registry, own.address, own.segment_id) catch
                return .{ .moving = .{ .address = own.address, .segment_id = own.segment_id } };
            const code = self.exporting.run(segment.handle);
            if (code == acl.code.success) pin(open, own, segment, .exported) else _ = open.registry.stopMoving(segment);
            return .{ .done = code };
        }
    };
    return whileAwake(session, Share{ .handle = handle, .exporting = exporting });
}

/// Takes awake memory that the caller has claimed out of the table of segments. With the handles' mutex held.
pub fn pin(session: *Session, own: *handles.Handle, segment: *core.segments.Segment, reason: memory.Pinned) void {
    const address = own.address;
    const was_parked = own.isParked();
    handles.disown(session, own, segment);
    own.pinned = reason;
    if (was_parked) return leaveParking(session, address);
    memory.mutex.lock();
    defer memory.mutex.unlock();
    const block = memory.at(address) orelse return;
    block.pinned = reason;
    block.segment_id = 0;
}

/// The range is the library's. What AscendCL refuses is lost to it until the process ends.
fn leaveParking(session: *Session, address: u64) void {
    const api = &session.runtime.library.api;
    const pointer: *anyopaque = @ptrFromInt(address);
    if (api.aclrtUnmapMem(pointer) == acl.code.success) _ = api.aclrtReleaseMemAddress(pointer);
}

/// Makes a call after which others use the memory at an address. It is pinned if that succeeds.
pub fn shareAddress(address: u64, reason: memory.Pinned, call: anytype) acl.Error {
    const session = start.current() orelse return call.run();
    const Share = struct {
        address: u64,
        reason: memory.Pinned,
        call: @TypeOf(call),

        pub fn run(self: @This(), open: *Session) Attempt {
            const found = memory.find(self.address) orelse return .{ .done = self.call.run() };
            if (found.segment_id == 0) return .{ .done = self.call.run() };
            handles.mutex.lock();
            defer handles.mutex.unlock();
            const segment = program_memory.claimAny(&open.registry, found.start, found.segment_id) catch
                return .{ .moving = .{ .address = found.start, .segment_id = found.segment_id } };
            const code = self.call.run();
            if (code != acl.code.success)
                _ = open.registry.stopMoving(segment)
            else if (found.kind == .mapping)
                pinMapping(open, found.start, segment, self.reason)
            else
                detach(open, found.start, segment, self.reason);
            return .{ .done = code };
        }
    };
    return whileAwake(session, Share{ .address = address, .reason = reason, .call = call });
}

fn pinMapping(session: *Session, address: u64, segment: *core.segments.Segment, reason: memory.Pinned) void {
    const number = memory.handleOf(address) orelse return;
    const own = handles.get(@ptrFromInt(number)) orelse return;
    pin(session, own, segment, reason);
}

/// The record of an allocation keeps its segment, which is in no table any more.
fn detach(session: *Session, address: u64, segment: *core.segments.Segment, reason: memory.Pinned) void {
    const registry = &session.registry;
    if (registry.takeBackup(segment, .drop)) |backup| backup.drop(&session.stores);
    _ = registry.unlist(segment);
    _ = registry.stopMoving(segment);
    memory.mutex.lock();
    defer memory.mutex.unlock();
    const block = memory.at(address) orelse return;
    block.pinned = reason;
    block.segment_id = 0;
    block.detached = segment;
}
