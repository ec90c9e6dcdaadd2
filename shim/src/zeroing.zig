//! Zeroes memory that a wake-up maps without its content.

const acl = @import("acl");
const runtime = @import("runtime.zig");
const Segment = @import("segment.zig").Segment;
const status = @import("status.zig");
const transfer = @import("transfer.zig");
const Failure = status.Failure;

/// Bytes given to the stream before it is waited for: often enough to cancel.
const batch_bytes = 256 << 20;

/// Zeroes segments of one device over one of its streams. The caller ends with `finish`, or after a failure with
/// `abandon`. All are called inside a `Scope` of the device.
pub const Zeroing = struct {
    runtime: *runtime.Runtime,
    stream: acl.Stream,
    observer: transfer.Observer,
    queued_bytes: u64 = 0,

    /// Zeroes a segment that is mapped, by `finish` at the latest.
    pub fn add(self: *Zeroing, segment: *const Segment, failure: *Failure) status.Error!void {
        const size_bytes = segment.size_bytes;
        // Counted first: a call that fails may have begun.
        self.queued_bytes += size_bytes;
        const api = &self.runtime.library.api;
        const code = api.aclrtMemsetAsync(segment.pointer(), size_bytes, 0, size_bytes, self.stream);
        try self.runtime.check("aclrtMemsetAsync", code, segment.address, size_bytes, failure);
        if (self.queued_bytes >= batch_bytes) try self.finish(failure);
    }

    /// Returns when all that was added is zero.
    pub fn finish(self: *Zeroing, failure: *Failure) status.Error!void {
        if (self.queued_bytes == 0) return;
        const code = self.runtime.library.api.aclrtSynchronizeStream(self.stream);
        if (!status.isSynchronizeNotice(code))
            try self.runtime.check("aclrtSynchronizeStream", code, 0, self.queued_bytes, failure);
        self.queued_bytes = 0;
        try self.observer.interrupt.check();
    }

    /// After a failure: returns when nothing is written any more. Where that is not sure, the observer's `unsettled` is
    /// set.
    pub fn abandon(self: *Zeroing) void {
        if (self.queued_bytes == 0) return;
        transfer.settle(self.runtime, self.stream, self.observer);
    }
};
