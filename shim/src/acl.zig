//! AscendCL as facts: types, enum values, return codes and the signatures of the calls that the shim makes. The shim
//! and the emulator share this file, so both sides of the boundary mean the same bytes. Nothing here calls anything.

const std = @import("std");

/// Return code of every AscendCL call. Codes the vendor adds later must pass through unchanged, so it is no enum.
pub const Error = c_int;

pub const code = struct {
    pub const success: Error = 0;
    pub const invalid_param: Error = 100000;
    pub const uninitialized: Error = 100001;
    pub const repeat_initialize: Error = 100002;
    pub const invalid_file: Error = 100003;
    pub const repeat_finalize: Error = 100037;
    pub const compiling_stub_mode: Error = 100039;
    pub const rt_param_invalid: Error = 107000;
    pub const rt_invalid_device_id: Error = 107001;
    pub const rt_context_null: Error = 107002;
    pub const rt_stream_context: Error = 107003;
    pub const rt_model_context: Error = 107004;
    pub const rt_event_timestamp_invalid: Error = 107006;
    pub const rt_invalid_memory_type: Error = 107016;
    pub const rt_invalid_handle: Error = 107017;
    pub const rt_stream_captured: Error = 107027;
    pub const rt_stream_not_captured: Error = 107029;
    pub const rt_capture_mode_not_support: Error = 107030;
    pub const rt_stream_capture_wrong_thread: Error = 107038;
    pub const bad_alloc: Error = 200000;
    pub const feature_unsupported: Error = 200006;
    pub const rt_feature_not_supported: Error = 207000;
    pub const rt_memory_allocation: Error = 207001;
    pub const rt_aicore_over_flow: Error = 207003;
    pub const rt_no_device: Error = 207004;
    pub const rt_resource_alloc_fail: Error = 207005;
    pub const rt_no_permission: Error = 207006;
    pub const rt_no_stream_resource: Error = 207008;
    pub const rt_aivec_over_flow: Error = 207016;
    pub const rt_over_flow: Error = 207017;
    pub const internal_error: Error = 500000;
    pub const failure: Error = 500001;
    pub const rt_internal_error: Error = 507000;
    pub const rt_ts_error: Error = 507001;
    pub const rt_context_release_error: Error = 507007;
    pub const rt_lost_heartbeat: Error = 507010;
    pub const rt_sys_dma: Error = 507013;
    pub const rt_end_of_sequence: Error = 507005;
    pub const rt_model_abort_normal: Error = 507023;
    pub const rt_dev_setup_error: Error = 507033;
    pub const rt_stream_sync_timeout: Error = 507046;
    pub const rt_event_sync_timeout: Error = 507047;
    pub const rt_device_mem_error: Error = 507053;
    pub const rt_hbm_multi_bit_ecc_error: Error = 507054;
    pub const rt_suspect_device_mem_error: Error = 507055;
    pub const rt_link_error: Error = 507056;
    pub const rt_suspect_remote_error: Error = 507057;
    pub const rt_drv_internal_error: Error = 507899;
    pub const rt_aicpu_internal_error: Error = 507900;
    pub const rt_socket_close: Error = 507901;
    pub const host_memory_already_registered: Error = 507910;
    pub const host_memory_not_registered: Error = 507911;
};

pub const Context = ?*anyopaque;
pub const Stream = ?*anyopaque;
pub const Event = ?*anyopaque;
pub const DrvMemHandle = ?*anyopaque;

/// Events of `aclrtCreateEventExWithFlag` that streams wait for, and that can be recorded again.
pub const event_sync: u32 = 1;

pub const RunMode = struct {
    pub const device: c_int = 0;
    pub const host: c_int = 1;
};

pub const MemcpyKind = struct {
    pub const host_to_host: c_int = 0;
    pub const host_to_device: c_int = 1;
    pub const device_to_host: c_int = 2;
    pub const device_to_device: c_int = 3;
    pub const default: c_int = 4;
    pub const host_to_buf_to_device: c_int = 5;
};

pub const MallocPolicy = struct {
    pub const huge_first: c_int = 0;
    pub const huge_only: c_int = 1;
    pub const normal_only: c_int = 2;
    pub const huge_first_p2p: c_int = 3;
    pub const huge_only_p2p: c_int = 4;
    pub const normal_only_p2p: c_int = 5;
    pub const huge1g_only: c_int = 6;
    pub const huge1g_only_p2p: c_int = 7;
};

pub const MemAttr = struct {
    pub const ddr_mem: c_int = 0;
    pub const hbm_mem: c_int = 1;
    pub const ddr_huge: c_int = 2;
    pub const ddr_normal: c_int = 3;
    pub const hbm_huge: c_int = 4;
    pub const hbm_normal: c_int = 5;
    pub const ddr_p2p_huge: c_int = 6;
    pub const ddr_p2p_normal: c_int = 7;
    pub const hbm_p2p_huge: c_int = 8;
    pub const hbm_p2p_normal: c_int = 9;
    pub const hbm_huge1g: c_int = 10;
    pub const hbm_p2p_huge1g: c_int = 11;
    pub const mem_normal: c_int = 12;
    pub const mem_huge: c_int = 13;
    pub const mem_huge1g: c_int = 14;
    pub const mem_p2p_normal: c_int = 15;
    pub const mem_p2p_huge: c_int = 16;
    pub const mem_p2p_huge1g: c_int = 17;
};

pub const MemLocationType = struct {
    pub const host: c_int = 0;
    pub const device: c_int = 1;
    pub const unregistered: c_int = 2;
    pub const managed: c_int = 3;
    pub const host_numa: c_int = 4;
};

pub const MemHandleType = struct {
    pub const none: c_int = 0;
    pub const posix: c_int = 2;
};

pub const MemAllocationType = struct {
    pub const pinned: c_int = 0;
};

pub const MemSharedHandleType = struct {
    pub const default: c_int = 1;
    pub const fabric: c_int = 2;
};

pub const MemGranularity = struct {
    pub const minimum: c_int = 0;
    pub const recommended: c_int = 1;
};

pub const MemAccess = struct {
    pub const none: c_int = 0;
    pub const read: c_int = 1;
    pub const read_write: c_int = 3;
};

pub const HostRegisterType = struct {
    pub const mapped: c_int = 0;
    pub const io_memory: c_int = 4;
    pub const read_only: c_int = 8;
};

pub const HostRegisterFlag = struct {
    pub const mapped: u32 = 0x2;
    pub const io_memory: u32 = 0x4;
    pub const read_only: u32 = 0x8;
    pub const pinned: u32 = 0x1000_0000;
};

pub const StreamStatus = struct {
    pub const complete: c_int = 0;
    pub const not_ready: c_int = 1;
};

pub const EventRecordedStatus = struct {
    pub const not_ready: c_int = 0;
    pub const complete: c_int = 1;
};

pub const MemLocation = extern struct { id: u32 = 0, type: c_int = 0 };

pub const PhysicalMemProp = extern struct {
    handle_type: c_int = MemHandleType.none,
    allocation_type: c_int = MemAllocationType.pinned,
    mem_attr: c_int = 0,
    location: MemLocation = .{},
    _pad: u32 = 0,
    reserve: u64 = 0,
};

pub const MemAccessDesc = extern struct {
    flags: c_int = 0,
    location: MemLocation = .{},
    rsv: [12]u8 = @splat(0),
};

pub const PtrAttributes = extern struct {
    location: MemLocation = .{},
    page_size: u32 = 0,
    rsv: [4]u32 = @splat(0),
};

pub const MemcpyBatchAttr = extern struct {
    dst_loc: MemLocation = .{},
    src_loc: MemLocation = .{},
    rsv: [16]u8 = @splat(0),
};

pub const MemFabricHandle = extern struct { data: [128]u8 = @splat(0) };

fn expectLayout(comptime T: type, comptime size: usize, comptime alignment: usize, comptime offsets: anytype) void {
    if (@sizeOf(T) != size) @compileError(@typeName(T) ++ " has the wrong size");
    if (@alignOf(T) != alignment) @compileError(@typeName(T) ++ " has the wrong alignment");
    for (@typeInfo(@TypeOf(offsets)).@"struct".fields) |field| {
        if (@offsetOf(T, field.name) != @field(offsets, field.name))
            @compileError(@typeName(T) ++ "." ++ field.name ++ " is at the wrong offset");
    }
}

comptime {
    expectLayout(MemLocation, 8, 4, .{ .id = 0, .type = 4 });
    expectLayout(PhysicalMemProp, 32, 8, .{
        .handle_type = 0,
        .allocation_type = 4,
        .mem_attr = 8,
        .location = 12,
        .reserve = 24,
    });
    expectLayout(MemAccessDesc, 24, 4, .{ .flags = 0, .location = 4, .rsv = 12 });
    expectLayout(PtrAttributes, 28, 4, .{ .location = 0, .page_size = 8, .rsv = 12 });
    expectLayout(MemcpyBatchAttr, 32, 4, .{ .dst_loc = 0, .src_loc = 8, .rsv = 16 });
    expectLayout(MemFabricHandle, 128, 1, .{ .data = 0 });
}

/// The calls that the shim makes. A plain pointer is required; an optional one has a stated fallback where it is used.
pub const Api = struct {
    aclInit: *const fn (?[*:0]const u8) callconv(.c) Error,
    aclFinalize: *const fn () callconv(.c) Error,
    aclFinalizeReference: ?*const fn (?*u64) callconv(.c) Error,
    aclGetRecentErrMsg: ?*const fn () callconv(.c) ?[*:0]const u8,
    aclrtGetVersion: ?*const fn (*i32, *i32, *i32) callconv(.c) Error,
    aclsysGetVersionStr: ?*const fn ([*:0]u8, [*]u8) callconv(.c) Error,
    aclrtGetSocName: ?*const fn () callconv(.c) ?[*:0]const u8,
    aclrtGetDeviceCount: *const fn (*u32) callconv(.c) Error,
    aclrtSetDevice: *const fn (i32) callconv(.c) Error,
    aclrtResetDevice: *const fn (i32) callconv(.c) Error,
    aclrtGetCurrentContext: *const fn (*Context) callconv(.c) Error,
    aclrtSetCurrentContext: *const fn (Context) callconv(.c) Error,
    aclrtGetPrimaryCtxState: ?*const fn (i32, ?*u32, *i32) callconv(.c) Error,
    aclrtSynchronizeDevice: *const fn () callconv(.c) Error,
    aclrtSynchronizeDeviceWithTimeout: ?*const fn (i32) callconv(.c) Error,
    aclrtCreateStream: *const fn (*Stream) callconv(.c) Error,
    aclrtDestroyStream: *const fn (Stream) callconv(.c) Error,
    aclrtSynchronizeStream: *const fn (Stream) callconv(.c) Error,
    aclrtCreateEventExWithFlag: ?*const fn (*Event, u32) callconv(.c) Error,
    aclrtRecordEvent: *const fn (Event, Stream) callconv(.c) Error,
    aclrtDestroyEvent: *const fn (Event) callconv(.c) Error,
    aclrtStreamWaitEvent: *const fn (Stream, Event) callconv(.c) Error,
    aclrtGetMemInfo: *const fn (c_int, *usize, *usize) callconv(.c) Error,
    aclrtMallocHost: *const fn (*?*anyopaque, usize) callconv(.c) Error,
    aclrtFreeHost: *const fn (*anyopaque) callconv(.c) Error,
    aclrtMemset: *const fn (*anyopaque, usize, i32, usize) callconv(.c) Error,
    aclrtMemsetAsync: *const fn (*anyopaque, usize, i32, usize, Stream) callconv(.c) Error,
    aclrtMemcpy: *const fn (*anyopaque, usize, *const anyopaque, usize, c_int) callconv(.c) Error,
    aclrtMemcpyAsync: *const fn (*anyopaque, usize, *const anyopaque, usize, c_int, Stream) callconv(.c) Error,
    aclrtMemGetAllocationGranularity: *const fn (*PhysicalMemProp, c_int, *usize) callconv(.c) Error,
    aclrtReserveMemAddress: *const fn (*?*anyopaque, usize, usize, ?*anyopaque, u64) callconv(.c) Error,
    aclrtReleaseMemAddress: *const fn (*anyopaque) callconv(.c) Error,
    aclrtMallocPhysical: *const fn (*DrvMemHandle, usize, *const PhysicalMemProp, u64) callconv(.c) Error,
    aclrtFreePhysical: *const fn (DrvMemHandle) callconv(.c) Error,
    aclrtMapMem: *const fn (*anyopaque, usize, usize, DrvMemHandle, u64) callconv(.c) Error,
    aclrtUnmapMem: *const fn (*anyopaque) callconv(.c) Error,
};
