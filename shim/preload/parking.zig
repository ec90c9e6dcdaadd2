//! Unmaps memory of the program in any state. What is asleep, and still has a handle, waits at an address of the
//! library's: its content is the handle's.

const acl = @import("acl");
const core = @import("core");
const program_memory = core.program_memory;
const gate = @import("gate.zig");
const handles = @import("handles.zig");
const memory = @import("memory.zig");
const Failure = core.status.Failure;
const Segment = core.segments.Segment;
const Session = core.session.Session;

pub const Unmapped = union(enum) {
    /// The library knows no mapping there.
    foreign,
    done: acl.Error,
    /// A plan has claimed the segment.
    moving: struct { address: u64, segment_id: u64 },
    needs_memory,
};

const Unmap = fn (?*anyopaque) callconv(.c) acl.Error;

pub fn unmap(session: *Session, address: u64, call: *const Unmap) Unmapped {
    handles.mutex.lock();
    defer handles.mutex.unlock();
    const number = memory.handleOf(address) orelse return .foreign;
    const own = handles.get(@ptrFromInt(number)) orelse return .foreign;
    if (own.address != address) {
        const code = call(@ptrFromInt(address));
        if (code != acl.code.success) return .{ .done = code };
        forgetMapping(session, number, own, address);
        return .{ .done = code };
    }
    const segment = program_memory.claimAny(&session.registry, address, own.segment_id) catch
        return .{ .moving = .{ .address = address, .segment_id = own.segment_id } };
    if (segment.mapped) {
        const code = call(@ptrFromInt(address));
        if (code != acl.code.success) {
            _ = session.registry.stopMoving(segment);
            return .{ .done = code };
        }
        session.registry.set(segment, .mapped, false);
    }
    if (segment.content.isLive()) {
        handles.disown(session, own, segment);
    } else if (own.references == 0) {
        dropAsleep(session, own, segment);
    } else if (!park(session, own, segment)) {
        _ = session.registry.stopMoving(segment);
        return .needs_memory;
    }
    forgetMapping(session, number, own, address);
    gate.settleAfterFree(session);
    return .{ .done = acl.code.success };
}

fn forgetMapping(session: *Session, number: u64, own: *handles.Handle, address: u64) void {
    if (memory.take(address, &.{.mapping})) |block| memory.destroy(block);
    own.mappings -= 1;
    if (own.mappings == 0 and own.pinned == .mapped_in_part) own.pinned = .none;
    if (own.isSegment()) return;
    _ = handles.freeIfUnused(session, number); // its program has let go of it already
}

/// Nothing refers to the content any more.
fn dropAsleep(session: *Session, own: *handles.Handle, segment: *Segment) void {
    own.address = 0;
    own.segment_id = 0;
    const registry = &session.registry;
    program_memory.doomClaimed(registry, segment);
    registry.set(segment, .borrowed, &nobodys);
    var failure: Failure = .{};
    session.memory.giveBack(segment, &failure) catch {
        _ = registry.unlist(segment); // the program may use the range again
        _ = registry.stopMoving(segment);
        return session.executor.requestSweep();
    };
    registry.destroy(segment);
    session.stores.trim(&failure) catch return; // what stays serves the next sleep
}

/// The range of a segment is still not ours when the record of its owner is gone.
const nobodys: core.segments.Borrowed = .{ .prop = .{} };

fn park(session: *Session, own: *handles.Handle, segment: *Segment) bool {
    const api = &session.runtime.library.api;
    var pointer: ?*anyopaque = null;
    if (api.aclrtReserveMemAddress(&pointer, segment.size_bytes, 0, null, 0) != acl.code.success) return false;
    const address = @intFromPtr(pointer orelse return false);
    program_memory.moveTo(&session.registry, segment, address);
    own.address = address;
    _ = session.registry.stopMoving(segment);
    return true;
}
