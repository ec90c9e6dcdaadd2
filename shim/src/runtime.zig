//! AscendCL's process-wide state as a guest sees it: initialisation, devices and the current context of a thread. An
//! engine beside us may own all of these, so nothing is finalised that was not initialised here, and a thread's
//! context is put back as it was found. (A thread that had none keeps the primary one: AscendCL has no call that
//! takes it away.)

const std = @import("std");
const acl = @import("acl");
const DeviceWaits = @import("device_waits.zig").DeviceWaits;
const Initialization = @import("initialization.zig").Initialization;
const LeftBehind = @import("left_behind.zig").LeftBehind;
const loader = @import("loader.zig");
const status = @import("status.zig");
const sync = @import("sync.zig");
const Failure = status.Failure;

pub const max_devices = 64;

/// AscendCL as it was found. Crosses the C ABI.
pub const Info = extern struct {
    /// NUL-terminated; texts are empty where AscendCL gives none.
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

/// A device's memory. Crosses the C ABI.
pub const MemoryInfo = extern struct {
    free_bytes: u64,
    total_bytes: u64,
    granularity_bytes: u64,
    /// Of memory that was freed while the device was busy: they are free as soon as it is not.
    awaited_bytes: u64 = 0,
};

/// Two streams a device: while one's copies run, the other's are being queued.
pub const streams_per_device = 2;

/// Waiting for a device is cut into pieces so that a cancelled plan is noticed.
const synchronize_slice_ms = 50;

const Device = struct {
    /// The primary context; null until the device is first used.
    context: acl.Context = null,
    granularity: usize = 0,
    streams: [streams_per_device]acl.Stream = @splat(null),
    /// Somebody else reset the device as often as it was set: our context, streams and memory went with it.
    gone: bool = false,
    /// Holds on the device that a failed opening took and could not give back.
    stray_holds: u32 = 0,
    /// The same of a context of our own.
    stray_context: acl.Context = null,
};

var sessions: std.atomic.Value(u64) = .init(1);

/// For a session inside a program that allocates by itself and must not notice: the session has contexts of its own,
/// holds no device and does not initialise AscendCL.
pub const Beside = struct {
    createContext: *const fn (*acl.Context, i32) callconv(.c) acl.Error,
    destroyContext: *const fn (acl.Context) callconv(.c) acl.Error,
    /// Waits for what the program has given to a device, in each of its contexts.
    synchronize: *const fn (
        runtime: *Runtime,
        device: u32,
        interrupt: ?sync.Interrupt,
        failure: *Failure,
    ) status.Error!void,
};

fn nextSession() u64 {
    return sessions.fetchAdd(1, .monotonic);
}

pub const Runtime = struct {
    library: loader.Library,
    initialization: Initialization,
    device_count: u32,
    /// Tells the contexts that are alive from those of earlier sessions; another number once a device was reset.
    session: u64,
    left_behind: LeftBehind,
    beside: ?*const Beside,
    mutex: sync.Mutex = .{},
    devices: [max_devices]Device = @splat(.{}),
    device_waits: [max_devices]DeviceWaits = @splat(.{}),

    pub fn init(library: loader.Library, beside: ?*const Beside, failure: *Failure) status.Error!Runtime {
        var self: Runtime = .{
            .library = library,
            .beside = beside,
            .initialization = .foreign,
            .device_count = 0,
            .session = nextSession(),
            .left_behind = try .ofProcess(),
        };
        if (beside == null) self.initialization = try .take(&library, failure);
        errdefer self.abandon();
        var count: u32 = 0;
        const code = library.api.aclrtGetDeviceCount(&count);
        self.check("aclrtGetDeviceCount", code, 0, 0, failure) catch return error.BackendUnavailable;
        self.device_count = @min(count, max_devices);
        if (count == 0) {
            failure.describe("aclrtGetDeviceCount", 0, 0, 0, "AscendCL reports no device");
            return error.BackendUnavailable;
        }
        return self;
    }

    /// Gives up our count of `aclInit`. The last one in the process tears AscendCL down.
    pub fn finalize(self: *Runtime, failure: *Failure) status.Error!void {
        return self.initialization.giveUp(&self.library, failure);
    }

    /// Finalizes after a failed attach, whose own failure is reported.
    pub fn abandon(self: *Runtime) void {
        self.initialization.abandon(&self.library);
    }

    /// Turns a code that is not success into an error, with AscendCL's own message of this thread.
    pub fn check(
        self: *const Runtime,
        call: []const u8,
        code: acl.Error,
        address: u64,
        size_bytes: u64,
        failure: *Failure,
    ) status.Error!void {
        return self.library.check(call, code, address, size_bytes, failure);
    }

    /// The primary context of `device`, which is opened on first use and stays open until `closeDevices`.
    /// Opening makes it current on this thread: call it inside a `Scope` on a foreign thread.
    fn contextOf(self: *Runtime, device: u32, failure: *Failure) status.Error!acl.Context {
        if (device >= self.device_count) {
            failure.describe("", 0, 0, 0, "no such device");
            return error.UnknownDevice;
        }
        self.mutex.lock();
        defer self.mutex.unlock();
        const slot = &self.devices[device];
        if (slot.context) |context| return context;
        const context = try self.openContext(device, failure);
        errdefer self.abandonContext(device, context);
        const api = &self.library.api;
        var prop = physicalMemory(device, memory_attribute);
        var granularity: usize = 0;
        const call = "aclrtMemGetAllocationGranularity";
        const code = api.aclrtMemGetAllocationGranularity(&prop, acl.MemGranularity.recommended, &granularity);
        try self.check(call, code, 0, 0, failure);
        if (context == null or granularity == 0 or !std.math.isPowerOfTwo(granularity)) {
            failure.describe(call, 0, 0, granularity, "AscendCL reports no usable context or granularity");
            return error.BackendUnavailable;
        }
        slot.context = context;
        slot.granularity = granularity;
        return context;
    }

    /// The primary context, which our hold on the device keeps open, or one of our own beside a program.
    fn openContext(self: *Runtime, device: u32, failure: *Failure) status.Error!acl.Context {
        const api = &self.library.api;
        var context: acl.Context = null;
        if (self.beside) |beside| {
            const code = beside.createContext(&context, @intCast(device));
            try self.check("aclrtCreateContext", code, 0, 0, failure);
            return context;
        }
        try self.check("aclrtSetDevice", api.aclrtSetDevice(@intCast(device)), 0, 0, failure);
        errdefer self.abandonContext(device, context);
        try self.check("aclrtGetCurrentContext", api.aclrtGetCurrentContext(&context), 0, 0, failure);
        return context;
    }

    /// Undoes `openContext`. What fails is tried again by `closeDevices`.
    fn abandonContext(self: *Runtime, device: u32, context: acl.Context) void {
        const slot = &self.devices[device];
        if (self.beside) |beside| {
            if (beside.destroyContext(context) != acl.code.success) slot.stray_context = context;
        } else if (self.library.api.aclrtResetDevice(@intCast(device)) != acl.code.success) {
            slot.stray_holds +|= 1;
        }
    }

    fn isOpen(self: *Runtime, device: u32) bool {
        if (device >= self.device_count) return false;
        self.mutex.lock();
        defer self.mutex.unlock();
        return self.devices[device].context != null;
    }

    /// Bytes that every mapping on `device` is a multiple of.
    pub fn granularityOf(self: *Runtime, device: u32, failure: *Failure) status.Error!usize {
        if (!self.isOpen(device)) try if (self.beside == null)
            self.open(device, failure)
        else
            self.openAside(device, failure);
        return self.devices[device].granularity;
    }

    fn open(self: *Runtime, device: u32, failure: *Failure) status.Error!void {
        return (try Scope.enter(self, device, failure)).leave(failure);
    }

    /// As `open`, on another thread: the program's own keeps its context even where a call fails.
    fn openAside(self: *Runtime, device: u32, failure: *Failure) status.Error!void {
        var outcome: status.Outcome = .{};
        const opening: sync.Thread = try .spawn(openOn, .{ self, device, &outcome });
        opening.join();
        failure.* = outcome.failure;
        return outcome.err orelse {};
    }

    fn openOn(self: *Runtime, device: u32, outcome: *status.Outcome) void {
        self.open(device, &outcome.failure) catch |err| {
            outcome.err = err;
        };
    }

    pub fn memoryInfo(self: *Runtime, device: u32, failure: *Failure) status.Error!MemoryInfo {
        const granularity = try self.granularityOf(device, failure);
        const scope = try Scope.enter(self, device, failure);
        errdefer scope.abandon();
        var free_bytes: usize = 0;
        var total_bytes: usize = 0;
        const code = self.library.api.aclrtGetMemInfo(acl.MemAttr.hbm_mem, &free_bytes, &total_bytes);
        try self.check("aclrtGetMemInfo", code, 0, 0, failure);
        try scope.leave(failure);
        return .{ .free_bytes = free_bytes, .total_bytes = total_bytes, .granularity_bytes = granularity };
    }

    pub fn info(self: *const Runtime) Info {
        const api = &self.library.api;
        var found = std.mem.zeroes(Info);
        status.copyText(&found.library_path, self.library.pathText());
        if (api.aclrtGetSocName) |socName| {
            if (socName()) |name| status.copyText(&found.soc_name, std.mem.span(name));
        }
        if (api.aclrtGetVersion) |version| _ = version(&found.acl_major, &found.acl_minor, &found.acl_patch);
        if (api.aclsysGetVersionStr) |versionText| {
            var package = "runtime".*;
            _ = versionText(&package, &found.cann_version);
            found.cann_version[found.cann_version.len - 1] = 0;
        }
        found.device_count = self.device_count;
        found.guest = @intFromBool(self.initialization != .ours);
        return found;
    }

    /// Waits until `device` has finished the work of all streams. Gives up soon after `interrupt` is set, but for an
    /// AscendCL without `aclrtSynchronizeDeviceWithTimeout`.
    pub fn synchronizeDevice(
        self: *Runtime,
        device: u32,
        interrupt: ?sync.Interrupt,
        failure: *Failure,
    ) status.Error!void {
        const scope = try Scope.enter(self, device, failure);
        defer scope.abandon();
        if (self.beside) |beside| {
            const waited = beside.synchronize(self, device, interrupt, failure);
            try self.makeCurrent(scope.entered, device, failure); // it leaves one of the program's
            try waited;
        }
        const slice_ms = synchronize_slice_ms;
        while (!try self.waitForDevice(device, if (interrupt) |given| given.waitMs(slice_ms) else slice_ms, failure)) {
            if (interrupt) |given| try given.check();
        }
    }

    /// As `DeviceWaits.wait`, in one of the contexts of `device`.
    pub fn waitForDevice(self: *Runtime, device: u32, timeout_ms: i32, failure: *Failure) status.Error!bool {
        return self.device_waits[device].wait(&self.library, timeout_ms, failure);
    }

    /// The copy streams of `device`, created on first use. Only the executor's thread calls this, inside a `Scope`.
    pub fn streamsOf(
        self: *Runtime,
        device: u32,
        failure: *Failure,
    ) status.Error!*const [streams_per_device]acl.Stream {
        const slot = &self.devices[device];
        for (&slot.streams) |*stream| {
            if (stream.* != null) continue;
            var created: acl.Stream = null; // a failed call may write to it
            try self.check("aclrtCreateStream", self.library.api.aclrtCreateStream(&created), 0, 0, failure);
            stream.* = created;
        }
        return &slot.streams;
    }

    /// Destroys our streams and gives our hold on every device back. What fails stays, and the call can be made again.
    pub fn closeDevices(self: *Runtime, failure: *Failure) status.Error!void {
        for (self.devices[0..self.device_count], 0..) |*slot, device| {
            while (slot.stray_holds > 0) : (slot.stray_holds -= 1)
                self.resetDevice(@intCast(device), failure) catch |err| if (!slot.gone) return err;
            try self.close(@intCast(device), failure);
        }
    }

    /// As `closeDevices`, for one device.
    pub fn close(self: *Runtime, device: u32, failure: *Failure) status.Error!void {
        const slot = &self.devices[device];
        if (slot.stray_context != null) try self.destroyContext(slot.stray_context, failure);
        slot.stray_context = null;
        if (slot.context == null) return;
        self.closeDevice(device, failure) catch |err| if (!slot.gone) return err;
        slot.* = .{};
    }

    fn closeDevice(self: *Runtime, device: u32, failure: *Failure) status.Error!void {
        const api = &self.library.api;
        {
            const scope = try Scope.enter(self, device, failure);
            defer scope.abandon();
            for (&self.devices[device].streams) |*stream| {
                if (stream.* == null) continue;
                try self.check("aclrtDestroyStream", api.aclrtDestroyStream(stream.*), 0, 0, failure);
                stream.* = null;
            }
        }
        const context = self.devices[device].context;
        self.session = nextSession(); // the context dies, whatever the call returns
        return if (self.beside == null) self.resetDevice(device, failure) else self.destroyContext(context, failure);
    }

    fn destroyContext(self: *Runtime, context: acl.Context, failure: *Failure) status.Error!void {
        const beside = self.beside orelse return;
        const code = beside.destroyContext(context);
        // Somebody has destroyed it already, as the end of AscendCL does.
        if (code == acl.code.rt_context_null or code == acl.code.rt_context_release_error) return;
        return self.check("aclrtDestroyContext", code, 0, 0, failure);
    }

    fn resetDevice(self: *Runtime, device: u32, failure: *Failure) status.Error!void {
        const code = self.library.api.aclrtResetDevice(@intCast(device));
        if (code == acl.code.rt_context_release_error) return; // somebody else has given our hold back
        return self.check("aclrtResetDevice", code, 0, 0, failure);
    }

    /// True once our context on `device` has been found dead.
    pub fn isGone(self: *Runtime, device: u32) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        return self.devices[device].gone;
    }

    fn makeCurrent(self: *Runtime, context: acl.Context, device: u32, failure: *Failure) status.Error!void {
        const code = self.library.api.aclrtSetCurrentContext(context);
        if (code == acl.code.rt_param_invalid) {
            if (try self.becomesCurrent(context, device, failure)) return;
            self.library.describe("aclrtSetCurrentContext", code, 0, 0, failure);
            self.mutex.lock();
            defer self.mutex.unlock();
            self.devices[device].gone = true;
            return error.DeviceLost;
        }
        return self.check("aclrtSetCurrentContext", code, 0, 0, failure);
    }

    /// Whether `context` still is the primary context of `device`; then it is current on this thread afterwards. False
    /// as well where AscendCL cannot tell. Never passes a context on that may be dead, which is undefined.
    fn becomesCurrent(self: *Runtime, context: acl.Context, device: u32, failure: *Failure) status.Error!bool {
        const api = &self.library.api;
        if (self.beside != null) return false; // contexts of its own are no primary ones
        const stateOf = api.aclrtGetPrimaryCtxState orelse return false;
        var active: i32 = 0;
        try self.check("aclrtGetPrimaryCtxState", stateOf(@intCast(device), null, &active), 0, 0, failure);
        if (active == 0) return false;
        // Others hold the device, so this hold neither opens nor closes it.
        try self.check("aclrtSetDevice", api.aclrtSetDevice(@intCast(device)), 0, 0, failure);
        defer self.giveHoldBack(device);
        var primary: acl.Context = null;
        try self.check("aclrtGetCurrentContext", api.aclrtGetCurrentContext(&primary), 0, 0, failure);
        return primary == context;
    }

    fn giveHoldBack(self: *Runtime, device: u32) void {
        if (self.library.api.aclrtResetDevice(@intCast(device)) == acl.code.success) return;
        self.mutex.lock();
        defer self.mutex.unlock();
        self.devices[device].stray_holds +|= 1;
    }

    /// Records that the context that a failed opening left current on this thread has died.
    fn noteDead(self: *Runtime, device: u32) void {
        var left: acl.Context = null;
        if (self.library.api.aclrtGetCurrentContext(&left) != acl.code.success) return;
        // Otherwise AscendCL refuses the context when it is put back.
        self.left_behind.note(left, device, LeftBehind.no_session) catch return;
    }

    /// Whether `context` is what this session holds as the primary context of `device`.
    fn holds(self: *Runtime, context: acl.Context, device: u32) bool {
        self.mutex.lock();
        defer self.mutex.unlock();
        const slot = &self.devices[device];
        return slot.context == context and !slot.gone;
    }
};

/// Makes the primary context of a device current on this thread for as long as it lasts.
pub const Scope = struct {
    runtime: *Runtime,
    device: u32,
    /// Ours; null until it is opened.
    entered: acl.Context = null,
    /// The context that was current before; null when there was none, or the same one.
    previous: acl.Context,

    pub fn enter(runtime: *Runtime, device: u32, failure: *Failure) status.Error!Scope {
        const found = try currentContext(runtime, failure);
        var scope: Scope = .{ .runtime = runtime, .device = device, .previous = found };
        errdefer scope.abandon();
        const context = runtime.contextOf(device, failure) catch |err| {
            if (found == null) runtime.noteDead(device);
            return err;
        };
        scope.entered = context;
        if (found == null) try runtime.left_behind.note(context, device, runtime.session);
        if (context == found) {
            scope.previous = null;
        } else {
            try runtime.makeCurrent(context, device, failure);
        }
        return scope;
    }

    /// The thread's context, or null where it has none or only a dead one that an earlier session left there.
    fn currentContext(runtime: *Runtime, failure: *Failure) status.Error!acl.Context {
        var found: acl.Context = null;
        const code = runtime.library.api.aclrtGetCurrentContext(&found);
        switch (code) {
            acl.code.success => {},
            // None; or, as some say of one that died, not a context.
            acl.code.rt_context_null, acl.code.rt_param_invalid => return null,
            else => try runtime.check("aclrtGetCurrentContext", code, 0, 0, failure),
        }
        const device = runtime.left_behind.staleDevice(found, runtime.session) orelse return found;
        if (device >= runtime.device_count) return null; // another library's
        const is_alive = runtime.holds(found, device) or try runtime.becomesCurrent(found, device, failure);
        return if (is_alive) found else null;
    }

    /// Restores the context that was current before. A failure is reported: the caller's own work would go on in a
    /// context of ours.
    pub fn leave(self: Scope, failure: *Failure) status.Error!void {
        const context = self.previous orelse return;
        const code = self.runtime.library.api.aclrtSetCurrentContext(context);
        if (code != acl.code.success) self.noteLeft();
        // Its owner may have destroyed the context in the meantime: not a failure of ours.
        if (code == acl.code.rt_param_invalid) return;
        return self.runtime.check("aclrtSetCurrentContext", code, 0, 0, failure);
    }

    /// The context of the scope stays current on this thread.
    fn noteLeft(self: Scope) void {
        const context = self.entered orelse return self.runtime.noteDead(self.device);
        const session = self.runtime.session;
        self.runtime.left_behind.note(context, self.device, session) catch return; // as after a failed opening
    }

    /// As `leave`, for use after a failure, or on a thread of the shim.
    pub fn abandon(self: Scope) void {
        var ignored: Failure = .{};
        self.leave(&ignored) catch return;
    }
};

/// A call that succeeds without a result would be followed into a null.
pub fn expectResult(
    call: []const u8,
    pointer: ?*anyopaque,
    address: u64,
    size_bytes: u64,
    failure: *Failure,
) status.Error!*anyopaque {
    return pointer orelse {
        failure.describe(call, acl.code.success, address, size_bytes, "AscendCL reports success and returns nothing");
        return error.AclCallFailed;
    };
}

/// Of the physical memory of segments, unless a program beside asks for another: 2 MiB pages of high-bandwidth memory.
pub const memory_attribute = acl.MemAttr.hbm_huge;

pub fn physicalMemory(device: u32, mem_attr: c_int) acl.PhysicalMemProp {
    return .{
        .mem_attr = mem_attr,
        .location = .{ .id = device, .type = acl.MemLocationType.device },
    };
}
