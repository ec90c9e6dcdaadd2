//! Remembers how the program writes to its memory, and applies the rules to it. Segments carry the tag of the rule that
//! matches them, which says to a controller what a sleep does with them.

const core = @import("core");
const program_memory = core.program_memory;
const memory = @import("memory.zig");
const rules = @import("rules.zig");
const settings = @import("settings.zig");
const start = @import("start.zig");
const Session = core.session.Session;

/// A call is about to write. Its caller is inside the gate.
pub fn note(pointer: ?*const anyopaque, comptime how: memory.Written) void {
    memory.mutex.lock();
    defer memory.mutex.unlock();
    const block = memory.containing(@intFromPtr(pointer)) orelse return;
    const known: u32 = @bitCast(block.written);
    const now = known | @as(u32, @bitCast(how));
    // A backup of content that was called immutable, by a rule or by a controller, is no longer the content.
    if (start.current()) |session| {
        const is_kept = block.keeps_backup or session.registry.keeps_backups.load(.acquire);
        if (is_kept) session.dropKeptBackup(block.start, block.segment_id);
    }
    if (now == known) return;
    block.written = @bitCast(now);
    if (settings.hasRules()) apply(block);
}

/// Memory is new.
pub fn noteNew(address: u64) void {
    if (!settings.hasRules()) return;
    memory.mutex.lock();
    defer memory.mutex.unlock();
    apply(memory.at(address) orelse return);
}

/// Gives a segment the tag of the first rule that matches. With the mutex of the memory held.
fn apply(block: *memory.Block) void {
    if (block.segment_id == 0 or block.kind == .chunk) return;
    const session = start.current() orelse return;
    const number, const action = match(block);
    const tag = session.internTag(action.tag()) catch return; // the tag before stays
    program_memory.retag(&session.registry, block.start, block.segment_id, tag);
    block.rule = number;
    block.keeps_backup = action == .immutable;
}

/// The number of the first rule that matches, from 1, and its action; 0 without one.
fn match(block: *const memory.Block) struct { u32, rules.Action } {
    for (settings.allRules(), 1..) |*rule, number| {
        if (rule.matches(block.size_bytes, block.device, block.written)) return .{ @intCast(number), rule.action };
    }
    return .{ 0, .offload };
}

/// Whether a rule keeps an allocation on the device whatever is written to it: AscendCL may allocate it.
pub fn isKept(size_bytes: u64, device: u32) bool {
    for (settings.allRules()) |*rule| {
        if (!rule.isForAllocations()) return false;
        if (rule.matches(size_bytes, device, .{})) return rule.action == .keep;
    }
    return false;
}
