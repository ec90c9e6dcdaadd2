//! Events of our own, on each device, for what waits for copies.

const std = @import("std");
const acl = @import("acl");
const heap = @import("heap.zig");
const runtime = @import("runtime.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;

/// Some devices have 1,023, which the engine needs as well. AscendCL waits where there is none left.
const most_per_device = 512;

/// The events of all devices. One that was given out is given out again once its device has finished all work, since
/// a stream may still wait for it until then.
pub const Events = struct {
    mutex: sync.Mutex = .{},
    devices: [runtime.max_devices]Made = @splat(.{}),

    const Made = struct { list: std.ArrayList(acl.Event) = .empty, taken: usize = 0 };

    /// Null where there is none left. Inside a `Scope` of the device.
    pub fn take(self: *Events, rt: *runtime.Runtime, device: u32) acl.Event {
        self.mutex.lock();
        defer self.mutex.unlock();
        const made = &self.devices[device];
        if (made.taken == made.list.items.len) {
            if (made.taken == most_per_device) return null;
            const create = rt.library.api.aclrtCreateEventExWithFlag orelse return null;
            made.list.ensureUnusedCapacity(heap.allocator, 1) catch return null;
            var created: acl.Event = null;
            if (create(&created, acl.event_sync) != acl.code.success) return null;
            made.list.appendAssumeCapacity(created);
        }
        made.taken += 1;
        return made.list.items[made.taken - 1];
    }

    /// All work of the device has ended.
    pub fn settle(self: *Events, device: u32) void {
        self.mutex.lock();
        defer self.mutex.unlock();
        self.devices[device].taken = 0;
    }

    /// Destroys all events. What fails stays, and the call can be made again.
    pub fn close(self: *Events, rt: *runtime.Runtime, failure: *Failure) status.Error!void {
        for (0..runtime.max_devices) |device| {
            const made = &self.devices[device];
            if (made.list.items.len > 0) self.destroy(rt, @intCast(device), failure) catch |err| {
                // They have gone with their device.
                if (!rt.isGone(@intCast(device))) return err;
            };
            made.list.deinit(heap.allocator);
            made.* = .{};
        }
    }

    fn destroy(self: *Events, rt: *runtime.Runtime, device: u32, failure: *Failure) status.Error!void {
        const scope = try runtime.Scope.enter(rt, device, failure);
        defer scope.abandon();
        const list = &self.devices[device].list;
        while (list.getLastOrNull()) |event| {
            const code = rt.library.api.aclrtDestroyEvent(event);
            try rt.check("aclrtDestroyEvent", code, 0, 0, failure);
            _ = list.pop();
        }
    }
};
