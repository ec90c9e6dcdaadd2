//! The devices, whether open or not. A device is open while a primary context (aclrtSetDevice) or an explicit one
//! holds it.

const acl = @import("acl");
const config = @import("config.zig");
const errors = @import("errors.zig");
const physical = @import("physical.zig");
const timing = @import("timing.zig");

pub const Device = struct {
    user_id: u8,
    driver_id: u8,
    pool: physical.Pool,
    engines: timing.Engines = .initFill(0),
    set_references: u64 = 0,
    explicit_contexts: u64 = 0,
    /// Handle of the primary context, or 0.
    primary_context: u64 = 0,

    pub fn isOpen(device: *const Device) bool {
        return device.set_references > 0 or device.explicit_contexts > 0;
    }
};

var devices: [config.max_devices]Device = undefined;
var device_count: ?u8 = null;

/// The driver's address space manager starts with the first device that the process opens, and stays.
pub var ever_opened = false;

pub fn all() []Device {
    if (device_count == null) {
        const settings = config.get();
        for (settings.visible[0..settings.visible_count], 0..) |driver_id, index| {
            devices[index] = .{
                .user_id = @intCast(index),
                .driver_id = driver_id,
                .pool = .{
                    .budget_bytes = settings.hbm_bytes,
                    .shared = if (config.share()) |share| .{ .share = share, .device = driver_id } else null,
                },
            };
        }
        device_count = settings.visible_count;
    }
    return devices[0..device_count.?];
}

pub fn byUserId(id: i64) ?*Device {
    if (id < 0 or id >= all().len) return null;
    return &devices[@intCast(id)];
}

pub fn driverId(user_id: u8) u8 {
    return devices[user_id].driver_id;
}

pub fn enginesOf(user_id: u8) *timing.Engines {
    return &devices[user_id].engines;
}

pub fn unknownDevice() acl.Error {
    return errors.fail(acl.code.rt_invalid_device_id, "no such device");
}

pub fn neverOpened() acl.Error {
    return errors.fail(acl.code.rt_invalid_handle, "no device was opened in this process yet");
}

/// Returns kept memory of all devices to the host.
pub fn shrinkPools() void {
    for (all()) |*device| device.pool.shrink(0);
}
