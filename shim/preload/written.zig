//! Remembers how the program writes to its memory, for rules and reports.

const memory = @import("memory.zig");

pub fn note(pointer: ?*const anyopaque, comptime how: memory.Written) void {
    memory.mutex.lock();
    defer memory.mutex.unlock();
    const block = memory.containing(@intFromPtr(pointer)) orelse return;
    const word: u32 = @bitCast(block.written);
    block.written = @bitCast(word | @as(u32, @bitCast(how)));
}
