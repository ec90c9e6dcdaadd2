//! The closed set of outcomes that cross the C ABI, and how AscendCL's codes map onto it.

const std = @import("std");
const acl = @import("acl");

/// What every export returns. TypeScript turns each into one `CamemErrorCode`.
pub const Status = enum(i32) {
    ok = 0,
    invalid_argument,
    invalid_size,
    unknown_device,
    unknown_tag,
    unknown_segment,
    out_of_bounds,
    asleep,
    moving,
    /// Another plan is running.
    busy,
    /// A plan was made for another version of the table.
    stale,
    /// Already attached with another library.
    config_conflict,
    not_open,
    library_not_found,
    library_invalid,
    backend_unavailable,
    device_lost,
    out_of_device_memory,
    out_of_host_memory,
    acl_call_failed,
    aborted,
    /// A backup is not what was copied into it.
    backup_corrupt,
    /// There is no backup to read.
    no_backup,
    /// A write to memory that was declared immutable.
    immutable,
    /// A system call on a file failed.
    file_failed,
    /// A checkpoint is not what was loaded.
    file_changed,
    /// There is no engine behind a socket.
    engine_not_found,
    /// A socket is not an engine's of this user and this version, or the engine takes no more clients.
    engine_refused,
    /// The engine in another process has ended, or does not answer.
    engine_gone,
};

pub const Error = error{
    InvalidArgument,
    InvalidSize,
    UnknownDevice,
    UnknownTag,
    UnknownSegment,
    OutOfBounds,
    Asleep,
    Moving,
    Busy,
    Stale,
    ConfigConflict,
    NotOpen,
    LibraryNotFound,
    LibraryInvalid,
    BackendUnavailable,
    DeviceLost,
    OutOfDeviceMemory,
    OutOfHostMemory,
    AclCallFailed,
    Aborted,
    BackupCorrupt,
    NoBackup,
    Immutable,
    FileFailed,
    FileChanged,
    EngineNotFound,
    EngineRefused,
    EngineGone,
};

pub fn fromError(err: Error) Status {
    return switch (err) {
        error.InvalidArgument => .invalid_argument,
        error.InvalidSize => .invalid_size,
        error.UnknownDevice => .unknown_device,
        error.UnknownTag => .unknown_tag,
        error.UnknownSegment => .unknown_segment,
        error.OutOfBounds => .out_of_bounds,
        error.Asleep => .asleep,
        error.Moving => .moving,
        error.Busy => .busy,
        error.Stale => .stale,
        error.ConfigConflict => .config_conflict,
        error.NotOpen => .not_open,
        error.LibraryNotFound => .library_not_found,
        error.LibraryInvalid => .library_invalid,
        error.BackendUnavailable => .backend_unavailable,
        error.DeviceLost => .device_lost,
        error.OutOfDeviceMemory => .out_of_device_memory,
        error.OutOfHostMemory => .out_of_host_memory,
        error.AclCallFailed => .acl_call_failed,
        error.Aborted => .aborted,
        error.BackupCorrupt => .backup_corrupt,
        error.NoBackup => .no_backup,
        error.Immutable => .immutable,
        error.FileFailed => .file_failed,
        error.FileChanged => .file_changed,
        error.EngineNotFound => .engine_not_found,
        error.EngineRefused => .engine_refused,
        error.EngineGone => .engine_gone,
    };
}

/// The status of an AscendCL code that is not success.
pub fn fromAcl(code: acl.Error) Error {
    return switch (code) {
        acl.code.rt_invalid_device_id => error.UnknownDevice,
        acl.code.rt_memory_allocation => error.OutOfDeviceMemory,
        // The device, its link or its memory is gone; a kernel's own fault (507014 and the like) is not among these.
        acl.code.rt_no_device,
        acl.code.rt_ts_error,
        acl.code.rt_lost_heartbeat,
        acl.code.rt_sys_dma,
        acl.code.rt_dev_setup_error,
        acl.code.rt_device_mem_error,
        acl.code.rt_hbm_multi_bit_ecc_error,
        acl.code.rt_suspect_device_mem_error,
        acl.code.rt_link_error,
        acl.code.rt_suspect_remote_error,
        acl.code.rt_socket_close,
        => error.DeviceLost,
        else => error.AclCallFailed,
    };
}

/// Synchronise calls return these as notices: the work has ended. 507901 is among the vendor's, but it also says that
/// the channel to the device is closed, and weights are not unmapped on that word: here it counts as the device being
/// lost.
pub fn isSynchronizeNotice(code: acl.Error) bool {
    return switch (code) {
        acl.code.rt_aicore_over_flow,
        acl.code.rt_aivec_over_flow,
        acl.code.rt_over_flow,
        acl.code.rt_end_of_sequence,
        acl.code.rt_model_abort_normal,
        => true,
        else => false,
    };
}

/// Whether the wait for a device or a stream returned the failure of work that it has waited for.
pub fn isFailedWait(code: acl.Error) bool {
    return code != acl.code.success and code != acl.code.rt_stream_sync_timeout and !isSynchronizeNotice(code);
}

/// Where and why a call failed. The caller owns it; the shim only writes it, and only when it returns a failure.
pub const Failure = extern struct {
    /// NUL-terminated name of the AscendCL call, or empty.
    call: [48]u8 = @splat(0),
    acl_code: i32 = 0,
    reserved: u32 = 0,
    address: u64 = 0,
    size_bytes: u64 = 0,
    /// NUL-terminated text: AscendCL's own message, or the loader's.
    message: [512]u8 = @splat(0),

    pub fn describe(
        self: *Failure,
        call: []const u8,
        code: acl.Error,
        address: u64,
        size_bytes: u64,
        message: []const u8,
    ) void {
        self.* = .{ .acl_code = code, .address = address, .size_bytes = size_bytes };
        copyText(&self.call, call);
        copyText(&self.message, message);
    }
};

/// How one of several threads ended.
pub const Outcome = struct {
    err: ?Error = null,
    failure: Failure = .{},

    /// The first failure. A thread that ended because another failed says nothing, unless all did.
    pub fn first(outcomes: []const Outcome, failure: *Failure) Error!void {
        var aborted: ?*const Outcome = null;
        for (outcomes) |*outcome| {
            const err = outcome.err orelse continue;
            if (err == error.Aborted) {
                if (aborted == null) aborted = outcome;
                continue;
            }
            failure.* = outcome.failure;
            return err;
        }
        const outcome = aborted orelse return;
        failure.* = outcome.failure;
        return error.Aborted;
    }
};

/// Copies as much of `text` as leaves room for the terminating NUL.
pub fn copyText(target: []u8, text: []const u8) void {
    const length = @min(text.len, target.len - 1);
    @memcpy(target[0..length], text[0..length]);
    @memset(target[length..], 0);
}

test "fromError has a status for each error" {
    const errors = @typeInfo(Error).error_set.?;
    try std.testing.expectEqual(@typeInfo(Status).@"enum".fields.len - 1, errors.len);
}

test "Failure.describe cuts text that is too long" {
    var failure: Failure = .{};
    const long: [1000]u8 = @splat('x');
    failure.describe("aclrtMalloc", 1, 2, 3, &long);
    try std.testing.expectEqual(0, failure.message[failure.message.len - 1]);
    try std.testing.expectEqualStrings("aclrtMalloc", std.mem.sliceTo(&failure.call, 0));
}
