//! A libascendcl.so without an NPU: AscendCL's own ABI over memory of the host. This file only exports; every call is
//! counted, may be made to fail, and leaves a code and a text behind for the thread.
//!
//! What is emulated: devices with a memory budget and exact accounting, contexts per thread, streams that execute in order
//! on threads of their own, events, aclrtMalloc and page-locked host memory, virtual memory management with the codes of
//! the driver build for Atlas A2 and A3, copies with AscendCL's rules, and sharing between processes of one machine. No
//! kernels: aclrtLaunchHostFunc is how a test puts work of its own on a stream.
//!
//! What is meant to be measured on: device memory is there before it is used (backing.zig), a mapping is complete when the
//! call returns, every table is a tree or a hash, and no lock is held while bytes move. What that leaves is the caller's
//! code and the copy. Or the time is that of a model (timing.zig).
//!
//! The fault model (faults.zig): any call that returns aclError can fail with any code, by count, and then has done
//! nothing; queued copies, fills and host functions can fail when they execute, which the next synchronize of their stream
//! reports once. A failed task does not stop the ones behind it. Faults that are not modelled: a call that fails and has
//! taken effect, a copy that is torn, a device that is lost for good (use `*:n+=507010`), memory that is corrupted.
//!
//! Where this differs from a device, for a reason:
//! - Mapped device memory can be read and written by the CPU, so that tests can look at it and host functions can stand in
//!   for kernels. Anything reserved but not mapped faults, as on a device.
//! - New memory has a scribble in every 64 KiB where it is resident (backing.zig) and is zero elsewhere, not anything.
//! - The budget is per process, and one pool serves pages of every size.
//! - Freeing ordinary device or host memory that queued work still uses is safe: the memory goes when the work is done.
//! - Peer access needs no enabling.
//! - A forced stream destroy gives short work 100 ms to finish (stream.zig), where a device would have started it long ago.
//! - A child of fork() inherits tables and mappings, but no stream threads: initialise in the child only.
//! Addresses, handles and keys are never reused soon, so using a stale one is an error code instead of luck.

const std = @import("std");
const acl = @import("acl");
const accounting = @import("accounting.zig");
const config = @import("config.zig");
const device = @import("device.zig");
const errors = @import("errors.zig");
const event = @import("event.zig");
const faults = @import("faults.zig");
const memory = @import("memory.zig");
const sharing = @import("sharing.zig");
const stream = @import("stream.zig");
const system = @import("system.zig");
const timing = @import("timing.zig");
const transfer = @import("transfer.zig");
const versions = @import("versions.zig");
const vmm = @import("vmm.zig");
const HostFunction = @import("task.zig").HostFunction;

fn call(comptime site: std.builtin.SourceLocation, comptime function: anytype, arguments: anytype) acl.Error {
    const settings = config.get();
    errors.begin();
    if (faults.intercept(comptime faults.indexOf(site.fn_name))) |code|
        return errors.finish(site.fn_name, errors.fail(code, "injected fault"));
    const begun = timing.begin(&settings.timing);
    const code = @call(.auto, function, arguments);
    const bytes: u64 = if (comptime timing.isSized(site.fn_name)) arguments[1] else 0;
    timing.finish(&settings.timing, comptime faults.indexOf(site.fn_name), bytes, begun);
    return errors.finish(site.fn_name, code);
}

// Initialisation, versions, errors.

pub export fn aclInit(config_path: ?[*:0]const u8) acl.Error {
    return call(@src(), system.init, .{config_path});
}

pub export fn aclFinalize() acl.Error {
    return call(@src(), system.finalize, .{});
}

pub export fn aclFinalizeReference(reference_count: ?*u64) acl.Error {
    return call(@src(), system.finalizeReference, .{reference_count});
}

pub export fn aclrtGetVersion(major: ?*i32, minor: ?*i32, patch: ?*i32) acl.Error {
    return call(@src(), versions.getApi, .{ major, minor, patch });
}

pub export fn aclsysGetVersionStr(package: ?[*:0]const u8, version: ?[*]u8) acl.Error {
    return call(@src(), versions.getText, .{ package, version });
}

pub export fn aclsysGetVersionNum(package: ?[*:0]const u8, version: ?*i32) acl.Error {
    return call(@src(), versions.getNumber, .{ package, version });
}

pub export fn aclsysGetCANNVersion(package: c_int, version: ?*versions.PackageVersion) acl.Error {
    return call(@src(), versions.getPackage, .{ package, version });
}

pub export fn aclrtGetErrorVerbose(device_id: i32, info: ?*anyopaque) acl.Error {
    return call(@src(), errors.verbose, .{ device_id, info });
}

pub export fn aclrtGetRunMode(mode: ?*c_int) acl.Error {
    return call(@src(), system.getRunMode, .{mode});
}

// Devices and contexts.

pub export fn aclrtGetDeviceCount(count: ?*u32) acl.Error {
    return call(@src(), device.getCount, .{count});
}

pub export fn aclrtSetDevice(device_id: i32) acl.Error {
    return call(@src(), device.set, .{device_id});
}

pub export fn aclrtGetDevice(device_id: ?*i32) acl.Error {
    return call(@src(), device.get, .{device_id});
}

pub export fn aclrtResetDevice(device_id: i32) acl.Error {
    return call(@src(), device.reset, .{device_id});
}

pub export fn aclrtResetDeviceForce(device_id: i32) acl.Error {
    return call(@src(), device.resetForce, .{device_id});
}

pub export fn aclrtSynchronizeDevice() acl.Error {
    return call(@src(), stream.synchronizeDevice, .{});
}

pub export fn aclrtSynchronizeDeviceWithTimeout(milliseconds: i32) acl.Error {
    return call(@src(), stream.synchronizeDeviceWithTimeout, .{milliseconds});
}

pub export fn aclrtDeviceCanAccessPeer(can: ?*i32, device_id: i32, peer: i32) acl.Error {
    return call(@src(), device.canAccessPeer, .{ can, device_id, peer });
}

pub export fn aclrtDeviceEnablePeerAccess(peer: i32, flags: u32) acl.Error {
    return call(@src(), device.enablePeerAccess, .{ peer, flags });
}

pub export fn aclrtDeviceGetBareTgid(pid: ?*i32) acl.Error {
    return call(@src(), device.getBareTgid, .{pid});
}

pub export fn aclrtCreateContext(context: ?*acl.Context, device_id: i32) acl.Error {
    return call(@src(), device.createContext, .{ context, device_id });
}

pub export fn aclrtDestroyContext(context: acl.Context) acl.Error {
    return call(@src(), device.destroyContext, .{context});
}

pub export fn aclrtSetCurrentContext(context: acl.Context) acl.Error {
    return call(@src(), device.setCurrentContext, .{context});
}

pub export fn aclrtGetCurrentContext(context: ?*acl.Context) acl.Error {
    return call(@src(), device.getCurrentContext, .{context});
}

// Streams.

pub export fn aclrtCreateStream(handle: ?*acl.Stream) acl.Error {
    return call(@src(), stream.create, .{handle});
}

pub export fn aclrtCreateStreamWithConfig(handle: ?*acl.Stream, priority: u32, flags: u32) acl.Error {
    return call(@src(), stream.createWithConfig, .{ handle, priority, flags });
}

pub export fn aclrtDestroyStream(handle: acl.Stream) acl.Error {
    return call(@src(), stream.destroy, .{handle});
}

pub export fn aclrtDestroyStreamForce(handle: acl.Stream) acl.Error {
    return call(@src(), stream.destroyForce, .{handle});
}

pub export fn aclrtSynchronizeStream(handle: acl.Stream) acl.Error {
    return call(@src(), stream.synchronize, .{handle});
}

pub export fn aclrtSynchronizeStreamWithTimeout(handle: acl.Stream, milliseconds: i32) acl.Error {
    return call(@src(), stream.synchronizeWithTimeout, .{ handle, milliseconds });
}

pub export fn aclrtStreamQuery(handle: acl.Stream, status: ?*c_int) acl.Error {
    return call(@src(), stream.query, .{ handle, status });
}

pub export fn aclrtLaunchHostFunc(handle: acl.Stream, function: ?HostFunction, argument: ?*anyopaque) acl.Error {
    return call(@src(), stream.launchHostFunction, .{ handle, function, argument });
}

pub export fn aclrtLaunchCallback(
    function: ?HostFunction,
    argument: ?*anyopaque,
    block_type: c_int,
    handle: acl.Stream,
) acl.Error {
    return call(@src(), stream.launchCallback, .{ function, argument, block_type, handle });
}

pub export fn aclrtValueWait(address: ?*anyopaque, value: u64, flag: u32, handle: acl.Stream) acl.Error {
    return call(@src(), transfer.waitValue, .{ address, value, flag, handle });
}

pub export fn aclrtValueWrite(address: ?*anyopaque, value: u64, flag: u32, handle: acl.Stream) acl.Error {
    return call(@src(), transfer.writeValue, .{ address, value, flag, handle });
}

// Events.

pub export fn aclrtCreateEvent(handle: ?*acl.Event) acl.Error {
    return call(@src(), event.create, .{handle});
}

pub export fn aclrtCreateEventWithFlag(handle: ?*acl.Event, flags: u32) acl.Error {
    return call(@src(), event.createWithFlag, .{ handle, flags });
}

pub export fn aclrtCreateEventExWithFlag(handle: ?*acl.Event, flags: u32) acl.Error {
    return call(@src(), event.createExtended, .{ handle, flags });
}

pub export fn aclrtDestroyEvent(handle: acl.Event) acl.Error {
    return call(@src(), event.destroy, .{handle});
}

pub export fn aclrtRecordEvent(handle: acl.Event, on: acl.Stream) acl.Error {
    return call(@src(), event.record, .{ handle, on });
}

pub export fn aclrtStreamWaitEvent(waiting: acl.Stream, handle: acl.Event) acl.Error {
    return call(@src(), event.streamWait, .{ waiting, handle });
}

pub export fn aclrtSynchronizeEvent(handle: acl.Event) acl.Error {
    return call(@src(), event.synchronize, .{handle});
}

pub export fn aclrtSynchronizeEventWithTimeout(handle: acl.Event, milliseconds: i32) acl.Error {
    return call(@src(), event.synchronizeWithTimeout, .{ handle, milliseconds });
}

pub export fn aclrtQueryEventStatus(handle: acl.Event, status: ?*c_int) acl.Error {
    return call(@src(), event.queryStatus, .{ handle, status });
}

pub export fn aclrtQueryEvent(handle: acl.Event, status: ?*c_int) acl.Error {
    return call(@src(), event.query, .{ handle, status });
}

pub export fn aclrtEventElapsedTime(milliseconds: ?*f32, start: acl.Event, end: acl.Event) acl.Error {
    return call(@src(), event.elapsed, .{ milliseconds, start, end });
}

// Ordinary memory.

pub export fn aclrtMalloc(pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
    return call(@src(), memory.malloc, .{ pointer, size, policy });
}

pub export fn aclrtMallocAlign32(pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
    return call(@src(), memory.mallocAlign32, .{ pointer, size, policy });
}

pub export fn aclrtMallocCached(pointer: ?*?*anyopaque, size: usize, policy: c_int) acl.Error {
    return call(@src(), memory.mallocCached, .{ pointer, size, policy });
}

pub export fn aclrtFree(pointer: ?*anyopaque) acl.Error {
    return call(@src(), memory.free, .{pointer});
}

pub export fn aclrtMallocHost(pointer: ?*?*anyopaque, size: usize) acl.Error {
    return call(@src(), memory.mallocHost, .{ pointer, size });
}

pub export fn aclrtFreeHost(pointer: ?*anyopaque) acl.Error {
    return call(@src(), memory.freeHost, .{pointer});
}

pub export fn aclrtHostRegister(pointer: ?*anyopaque, size: u64, kind: c_int, device_pointer: ?*?*anyopaque) acl.Error {
    return call(@src(), memory.hostRegister, .{ pointer, size, kind, device_pointer });
}

pub export fn aclrtHostRegisterV2(pointer: ?*anyopaque, size: u64, flags: u32) acl.Error {
    return call(@src(), memory.hostRegisterV2, .{ pointer, size, flags });
}

pub export fn aclrtHostUnregister(pointer: ?*anyopaque) acl.Error {
    return call(@src(), memory.hostUnregister, .{pointer});
}

pub export fn aclrtGetMemInfo(attr: c_int, free_bytes: ?*usize, total_bytes: ?*usize) acl.Error {
    return call(@src(), memory.getInfo, .{ attr, free_bytes, total_bytes });
}

pub export fn aclrtPointerGetAttributes(pointer: ?*const anyopaque, attributes: ?*acl.PtrAttributes) acl.Error {
    return call(@src(), memory.getAttributes, .{ pointer, attributes });
}

pub export fn aclrtMemGetAddressRange(pointer: ?*anyopaque, base: ?*?*anyopaque, size: ?*usize) acl.Error {
    return call(@src(), memory.getAddressRange, .{ pointer, base, size });
}

pub export fn aclrtMemcpy(
    destination: ?*anyopaque,
    room: usize,
    source: ?*const anyopaque,
    count: usize,
    kind: c_int,
) acl.Error {
    return call(@src(), transfer.copySync, .{ destination, room, source, count, kind });
}

pub export fn aclrtMemcpyAsync(
    destination: ?*anyopaque,
    room: usize,
    source: ?*const anyopaque,
    count: usize,
    kind: c_int,
    handle: acl.Stream,
) acl.Error {
    return call(@src(), transfer.copyAsync, .{ destination, room, source, count, kind, handle });
}

pub export fn aclrtMemset(pointer: ?*anyopaque, room: usize, value: i32, count: usize) acl.Error {
    return call(@src(), transfer.fillSync, .{ pointer, room, value, count });
}

pub export fn aclrtMemsetAsync(
    pointer: ?*anyopaque,
    room: usize,
    value: i32,
    count: usize,
    handle: acl.Stream,
) acl.Error {
    return call(@src(), transfer.fillAsync, .{ pointer, room, value, count, handle });
}

// Batched copies.

fn batchOf(
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,
) transfer.Batch {
    return .{
        .destinations = destinations,
        .rooms = rooms,
        .sources = sources,
        .sizes = sizes,
        .count = count,
        .attributes = attributes,
        .attribute_starts = attribute_starts,
        .attribute_count = attribute_count,
    };
}

pub export fn aclrtMemcpyBatch(
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,
    fail_index: ?*usize,
) acl.Error {
    const batch = batchOf(destinations, rooms, sources, sizes, count, attributes, attribute_starts, attribute_count);
    return call(@src(), transfer.batchSync, .{ batch, fail_index, .indexed });
}

pub export fn aclrtMemcpyBatchV2(
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,
) acl.Error {
    const batch = batchOf(destinations, rooms, sources, sizes, count, attributes, attribute_starts, attribute_count);
    return call(@src(), transfer.batchSync, .{ batch, null, .plain });
}

pub export fn aclrtMemcpyBatchAsync(
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,
    fail_index: ?*usize,
    handle: acl.Stream,
) acl.Error {
    const batch = batchOf(destinations, rooms, sources, sizes, count, attributes, attribute_starts, attribute_count);
    return call(@src(), transfer.batchAsync, .{ batch, fail_index, .indexed, handle });
}

pub export fn aclrtMemcpyBatchAsyncV2(
    destinations: ?[*]?*anyopaque,
    rooms: ?[*]usize,
    sources: ?[*]?*anyopaque,
    sizes: ?[*]usize,
    count: usize,
    attributes: ?[*]acl.MemcpyBatchAttr,
    attribute_starts: ?[*]usize,
    attribute_count: usize,
    handle: acl.Stream,
) acl.Error {
    const batch = batchOf(destinations, rooms, sources, sizes, count, attributes, attribute_starts, attribute_count);
    return call(@src(), transfer.batchAsync, .{ batch, null, .plain, handle });
}

// Virtual memory management.

pub export fn aclrtReserveMemAddress(
    pointer: ?*?*anyopaque,
    size: usize,
    alignment: usize,
    expected: ?*anyopaque,
    flags: u64,
) acl.Error {
    return call(@src(), vmm.reserve, .{ pointer, size, alignment, expected, flags });
}

pub export fn aclrtReleaseMemAddress(pointer: ?*anyopaque) acl.Error {
    return call(@src(), vmm.releaseAddress, .{pointer});
}

pub export fn aclrtMallocPhysical(
    handle: ?*acl.DrvMemHandle,
    size: usize,
    prop: ?*const acl.PhysicalMemProp,
    flags: u64,
) acl.Error {
    return call(@src(), vmm.mallocPhysical, .{ handle, size, prop, flags });
}

pub export fn aclrtFreePhysical(handle: acl.DrvMemHandle) acl.Error {
    return call(@src(), vmm.freePhysical, .{handle});
}

pub export fn aclrtMapMem(
    pointer: ?*anyopaque,
    size: usize,
    offset: usize,
    handle: acl.DrvMemHandle,
    flags: u64,
) acl.Error {
    return call(@src(), vmm.map, .{ pointer, size, offset, handle, flags });
}

pub export fn aclrtMemMapNoAccess(
    pointer: ?*anyopaque,
    size: usize,
    offset: usize,
    handle: acl.DrvMemHandle,
    flags: u64,
) acl.Error {
    return call(@src(), vmm.mapNoAccess, .{ pointer, size, offset, handle, flags });
}

pub export fn aclrtUnmapMem(pointer: ?*anyopaque) acl.Error {
    return call(@src(), vmm.unmap, .{pointer});
}

pub export fn aclrtMemSetAccess(
    pointer: ?*anyopaque,
    size: usize,
    descriptors: ?*const acl.MemAccessDesc,
    count: usize,
) acl.Error {
    return call(@src(), vmm.setAccess, .{ pointer, size, descriptors, count });
}

pub export fn aclrtMemGetAccess(pointer: ?*anyopaque, location: ?*const acl.MemLocation, flags: ?*u64) acl.Error {
    return call(@src(), vmm.getAccess, .{ pointer, location, flags });
}

pub export fn aclrtMemGetAllocationGranularity(
    prop: ?*const acl.PhysicalMemProp,
    option: c_int,
    granularity: ?*usize,
) acl.Error {
    return call(@src(), vmm.getGranularity, .{ prop, option, granularity });
}

pub export fn aclrtMemRetainAllocationHandle(pointer: ?*anyopaque, handle: ?*acl.DrvMemHandle) acl.Error {
    return call(@src(), vmm.retainHandle, .{ pointer, handle });
}

pub export fn aclrtMemGetAllocationPropertiesFromHandle(
    handle: acl.DrvMemHandle,
    prop: ?*acl.PhysicalMemProp,
) acl.Error {
    return call(@src(), vmm.getProperties, .{ handle, prop });
}

// Sharing between processes.

pub export fn aclrtMemExportToShareableHandle(
    handle: acl.DrvMemHandle,
    handle_type: c_int,
    flags: u64,
    shareable: ?*u64,
) acl.Error {
    return call(@src(), sharing.exportHandle, .{ handle, handle_type, flags, shareable });
}

pub export fn aclrtMemExportToShareableHandleV2(
    handle: acl.DrvMemHandle,
    flags: u64,
    share_type: c_int,
    shareable: ?*anyopaque,
) acl.Error {
    return call(@src(), sharing.exportHandleV2, .{ handle, flags, share_type, shareable });
}

pub export fn aclrtMemSetPidToShareableHandle(shareable: u64, pids: ?[*]const i32, count: usize) acl.Error {
    return call(@src(), sharing.setPids, .{ shareable, pids, count });
}

pub export fn aclrtMemSetPidToShareableHandleV2(
    shareable: ?*anyopaque,
    share_type: c_int,
    pids: ?[*]const i32,
    count: usize,
) acl.Error {
    return call(@src(), sharing.setPidsV2, .{ shareable, share_type, pids, count });
}

pub export fn aclrtMemImportFromShareableHandle(shareable: u64, device_id: i32, handle: ?*acl.DrvMemHandle) acl.Error {
    return call(@src(), sharing.importHandle, .{ shareable, device_id, handle });
}

pub export fn aclrtMemImportFromShareableHandleV2(
    shareable: ?*anyopaque,
    share_type: c_int,
    flags: u64,
    handle: ?*acl.DrvMemHandle,
) acl.Error {
    return call(@src(), sharing.importHandleV2, .{ shareable, share_type, flags, handle });
}

pub export fn aclrtIpcMemGetExportKey(
    pointer: ?*anyopaque,
    size: usize,
    key: ?[*]u8,
    length: usize,
    flags: u64,
) acl.Error {
    return call(@src(), sharing.getKey, .{ pointer, size, key, length, flags });
}

pub export fn aclrtIpcMemImportByKey(pointer: ?*?*anyopaque, key: ?[*:0]const u8, flags: u64) acl.Error {
    return call(@src(), sharing.importKey, .{ pointer, key, flags });
}

pub export fn aclrtIpcMemSetImportPid(key: ?[*:0]const u8, pids: ?[*]const i32, count: usize) acl.Error {
    return call(@src(), sharing.setKeyPids, .{ key, pids, count });
}

pub export fn aclrtIpcMemClose(key: ?[*:0]const u8) acl.Error {
    return call(@src(), sharing.closeKey, .{key});
}

// The thread's last error is the result here, not a failure of the call.

pub export fn aclrtPeekAtLastError(level: c_int) acl.Error {
    _ = config.get();
    return faults.intercept(comptime faults.indexOf("aclrtPeekAtLastError")) orelse errors.peek(level);
}

pub export fn aclrtGetLastError(level: c_int) acl.Error {
    _ = config.get();
    return faults.intercept(comptime faults.indexOf("aclrtGetLastError")) orelse errors.take(level);
}

// Calls that return no code.

pub export fn aclGetRecentErrMsg() ?[*:0]const u8 {
    return errors.recentMessage();
}

pub export fn aclrtGetSocName() ?[*:0]const u8 {
    return system.getSocName();
}

pub export fn aclFloatToFloat16(value: f32) u16 {
    return system.toHalf(value);
}

pub export fn aclFloat16ToFloat(value: u16) f32 {
    return system.fromHalf(value);
}

pub export fn aclDataTypeSize(data_type: c_int) usize {
    return system.dataTypeSize(data_type);
}

// For tests; a real libascendcl.so has none of these.

/// Replaces the faults and restarts all call counters; NULL or "" clears. -1 and no change when it cannot be parsed.
pub export fn camem_emulator_set_faults(specification: ?[*:0]const u8) c_int {
    return accounting.setFaults(specification);
}

/// Calls of a function since the faults were last set, injected failures included; "*" counts all.
pub export fn camem_emulator_call_count(name: ?[*:0]const u8) u64 {
    return accounting.callCount(name);
}

/// Fills 18 uint64_t (see accounting.zig for their order). -1 for NULL.
pub export fn camem_emulator_accounting(out: ?*accounting.Accounting) c_int {
    return accounting.read(out);
}

test {
    _ = accounting;
    _ = @import("address_space.zig");
    _ = @import("backing.zig");
    _ = config;
    _ = device;
    _ = errors;
    _ = event;
    _ = faults;
    _ = @import("files.zig");
    _ = @import("handles.zig");
    _ = @import("kept.zig");
    _ = memory;
    _ = @import("ranges.zig");
    _ = sharing;
    _ = stream;
    _ = @import("sync.zig");
    _ = system;
    _ = timing;
    _ = transfer;
    _ = versions;
    _ = vmm;
}
