//! Streams that wait for a value in device memory, and streams that write one.

const acl = @import("acl");
const block = @import("../block.zig");
const context = @import("../context.zig");
const errors = @import("../errors.zig");
const lock = @import("../lock.zig");
const Stream = @import("../stream.zig").Stream;
const Word = @import("../stream_task.zig").Word;

const invalid = acl.code.invalid_param;
const refused = acl.code.rt_param_invalid;
const max_wait_flag = 3;

pub fn aclrtValueWait(pointer: ?*anyopaque, value: u64, flag: u32, handle: acl.Stream) acl.Error {
    if (flag > max_wait_flag and pointer != null) return errors.fail(refused, "unknown wait flag");
    var word: Word = .{ .address = @intFromPtr(pointer), .value = value, .flag = flag };
    return submitWord(&word, handle, .wait);
}

pub fn aclrtValueWrite(pointer: ?*anyopaque, value: u64, flag: u32, handle: acl.Stream) acl.Error {
    if (flag != 0 and pointer != null) return errors.fail(refused, "the write flag must be 0");
    var word: Word = .{ .address = @intFromPtr(pointer), .value = value };
    return submitWord(&word, handle, .write);
}

fn submitWord(word: *Word, handle: acl.Stream, action: enum { wait, write }) acl.Error {
    if (word.address == 0) return errors.fail(invalid, "devAddr is NULL");
    lock.enter();
    defer lock.leave();
    var stream: *Stream = undefined;
    var code = context.resolveOwnStream(handle, &stream);
    if (code != acl.code.success) return code;
    code = block.pin(word.address, @sizeOf(u64), &word.at);
    if (code != acl.code.success) return errors.fail(refused, "not device memory");
    if (word.at.isHost()) {
        word.at.unpin();
        return errors.fail(refused, "not device memory");
    }
    code = stream.enqueue(switch (action) {
        .wait => .{ .wait_value = word.* },
        .write => .{ .write_value = word.* },
    });
    if (code != acl.code.success) word.at.unpin();
    return code;
}
