//! aclrtMalloc and its family. What the library cannot serve, AscendCL serves itself, with its own result; such memory
//! stays on the device.

const std = @import("std");
const acl = @import("acl");
const core = @import("core");
const contexts = @import("../contexts.zig");
const device_calls = @import("device.zig");
const memory = @import("../memory.zig");
const real = @import("../real.zig");
const refusal = @import("../refusal.zig");
const release = @import("../release.zig");
const room = @import("../room.zig");
const small = @import("../small.zig");
const start = @import("../start.zig");
const written = @import("../written.zig");
const Failure = core.status.Failure;
const Session = core.session.Session;

const Malloc = fn (?*?*anyopaque, usize, c_int) callconv(.c) acl.Error;
const MallocWithCfg = fn (?*?*anyopaque, usize, c_int, ?*Configuration) callconv(.c) acl.Error;
const Free = fn (?*anyopaque) callconv(.c) acl.Error;

/// AscendCL rounds sizes up to this, and adds it once more unless the program asked for alignment alone.
const rounding_bytes = 32;

pub fn aclrtMalloc(pointer: ?*?*anyopaque, size: usize, policy: c_int) callconv(.c) acl.Error {
    return allocate(.{ .malloc = "aclrtMalloc" }, pointer, size, policy);
}

pub fn aclrtMallocAlign32(pointer: ?*?*anyopaque, size: usize, policy: c_int) callconv(.c) acl.Error {
    return allocate(.{ .malloc = "aclrtMallocAlign32" }, pointer, size, policy);
}

pub fn aclrtMallocCached(pointer: ?*?*anyopaque, size: usize, policy: c_int) callconv(.c) acl.Error {
    return allocate(.{ .malloc = "aclrtMallocCached" }, pointer, size, policy);
}

pub fn aclrtMallocWithCfg(
    pointer: ?*?*anyopaque,
    size: usize,
    policy: c_int,
    configuration: ?*Configuration,
) callconv(.c) acl.Error {
    return allocate(.{ .configured = configuration }, pointer, size, policy);
}

const Configuration = extern struct {
    attributes: ?[*]const Attribute,
    count: usize,

    const Attribute = extern struct { name: c_int, value: extern union { device: u32, word: u64 align(4) } };
    const module_id: c_int = 1;

    /// Attributes that say nothing about where memory is.
    fn isPlain(self: *const Configuration) bool {
        const attributes = self.attributes orelse return self.count == 0;
        for (attributes[0..self.count]) |attribute| if (attribute.name != module_id) return false;
        return true;
    }
};

/// The call that the program made.
const Call = union(enum) {
    malloc: [:0]const u8,
    configured: ?*Configuration,

    fn real_(self: Call, pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
        switch (self) {
            .malloc => |name| {
                inline for (.{ "aclrtMalloc", "aclrtMallocAlign32", "aclrtMallocCached" }) |known| {
                    if (std.mem.eql(u8, name, known)) {
                        const call = real.function(known, Malloc) orelse return refusal.missing;
                        return call(pointer, size, policy);
                    }
                }
                return refusal.missing;
            },
            .configured => |configuration| {
                const call = real.function("aclrtMallocWithCfg", MallocWithCfg) orelse return refusal.missing;
                return call(pointer, size, policy, configuration);
            },
        }
    }

    fn isPlain(self: Call) bool {
        return switch (self) {
            .malloc => true,
            .configured => |configuration| if (configuration) |given| given.isPlain() else true,
        };
    }

    fn padding(self: Call) u64 {
        return if (self == .malloc and std.mem.eql(u8, self.malloc, "aclrtMallocAlign32")) 0 else rounding_bytes;
    }
};

fn allocate(call: Call, pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
    const out = pointer orelse return call.real_(pointer, size, policy);
    const largest = std.math.maxInt(u48);
    const device = contexts.currentDevice() orelse return call.real_(pointer, size, policy);
    if (size == 0 or size > largest) return call.real_(pointer, size, policy);
    const attribute = attributeOf(policy);
    if (!call.isPlain() or attribute == null) return allocateUnmanaged(call, out, size, policy, device, .special);
    const session = start.session() orelse return allocateUnmanaged(call, out, size, policy, device, .refused);
    if (written.isKept(size, device)) return allocateUnmanaged(call, out, size, policy, device, .rule);
    contexts.noteCurrent(device, false);
    const size_bytes = std.mem.alignForward(u64, size, rounding_bytes) + call.padding();
    var failure: Failure = .{};
    var address = place(session, device, size_bytes, attribute.?, &failure);
    for (0..room.most_attempts) |_| {
        if (address) |_| break else |err| if (err != error.OutOfDeviceMemory or !room.make(session)) break;
        address = place(session, device, size_bytes, attribute.?, &failure);
    }
    out.* = @ptrFromInt(address catch return allocateUnmanaged(call, out, size, policy, device, .refused));
    return acl.code.success;
}

/// The attribute of physical memory that a policy asks for; null where segments cannot have it.
fn attributeOf(policy: c_int) ?c_int {
    return switch (policy) {
        acl.MallocPolicy.huge_first_p2p, acl.MallocPolicy.huge_only_p2p => acl.MemAttr.hbm_p2p_huge,
        acl.MallocPolicy.normal_only_p2p => acl.MemAttr.hbm_p2p_normal,
        acl.MallocPolicy.huge1g_only, acl.MallocPolicy.huge1g_only_p2p => null,
        else => if (policy & ~@as(c_int, 0x10ff) == 0) acl.MemAttr.hbm_huge else null,
    };
}

fn place(session: *Session, device: u32, size_bytes: u64, attribute: c_int, failure: *Failure) core.status.Error!u64 {
    if (size_bytes <= small.largest_bytes and attribute == acl.MemAttr.hbm_huge)
        return small.allocate(session, device, size_bytes, failure);
    const made = try session.allocateOf(attribute, device, 0, size_bytes, failure);
    _ = memory.add(.{
        .start = made.address,
        .size_bytes = size_bytes,
        .device = device,
        .kind = .segment,
        .segment_id = made.segment_id,
    }) catch |err| {
        release.release(session, made.address, made.segment_id);
        return err;
    };
    written.noteNew(made.address);
    return made.address;
}

fn allocateUnmanaged(
    call: Call,
    out: *?*anyopaque,
    size: usize,
    policy: c_int,
    device: u32,
    reason: memory.Pinned,
) acl.Error {
    const code = call.real_(out, size, policy);
    if (code != acl.code.success) return code;
    const address = out.* orelse return code;
    _ = memory.add(.{
        .start = @intFromPtr(address),
        .size_bytes = size,
        .device = device,
        .kind = .unmanaged,
        .pinned = reason,
    }) catch return code; // without its record, only the report lacks it
    return code;
}

pub fn aclrtFree(pointer: ?*anyopaque) callconv(.c) acl.Error {
    return freeWith("aclrtFree", pointer);
}

pub fn aclrtFreeWithDevSync(pointer: ?*anyopaque) callconv(.c) acl.Error {
    if (memory.isAllocation(pointer)) {
        const code = device_calls.aclrtSynchronizeDevice();
        if (code != acl.code.success and !core.status.isSynchronizeNotice(code)) return code;
    }
    return freeWith("aclrtFreeWithDevSync", pointer);
}

fn freeWith(comptime name: [:0]const u8, pointer: ?*anyopaque) acl.Error {
    const address = @intFromPtr(pointer);
    if (start.current()) |session| {
        if (memory.take(address, &.{.segment})) |block| {
            release.releaseBlock(session, block);
            return acl.code.success;
        }
        switch (small.free(address)) {
            .unknown => {},
            .done => return acl.code.success,
            .empty => |chunk| {
                release.releaseBlock(session, chunk);
                return acl.code.success;
            },
        }
    }
    const call = real.function(name, Free) orelse return refusal.missing;
    // AscendCL may give the address out again as soon as it is free.
    const unmanaged = memory.take(address, &.{.unmanaged});
    const code = if (comptime std.mem.eql(u8, name, "aclrtFreeWithDevSync"))
        device_calls.waitForDevice(call, .{pointer})
    else
        call(pointer);
    if (unmanaged) |block| {
        if (code == acl.code.success) memory.destroy(block) else memory.restore(block);
    } else if (code == acl.code.success) {
        memory.noteForeignFree();
    }
    return code;
}
