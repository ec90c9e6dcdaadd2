//! Builds what the npm package ships: for each platform `libcamem.so` (the shim) and `emulator/libascendcl.so`
//! (the emulated device), installed below `<prefix>/<platform>/`, which is where the TypeScript side looks for them.

const std = @import("std");

/// The oldest glibc that the shipped binaries run on.
const glibc_floor: std.SemanticVersion = .{ .major = 2, .minor = 28, .patch = 0 };

const Platform = struct { name: []const u8, arch: std.Target.Cpu.Arch, abi: std.Target.Abi = .gnu };

/// Names follow Node's `${process.platform}-${process.arch}`, with the C library where it is not glibc.
const platforms = [_]Platform{
    .{ .name = "linux-x64", .arch = .x86_64 },
    .{ .name = "linux-arm64", .arch = .aarch64 },
    .{ .name = "linux-x64-musl", .arch = .x86_64, .abi = .musl },
    .{ .name = "linux-arm64-musl", .arch = .aarch64, .abi = .musl },
};

const bindings_path = "../src/ffi/symbols.gen.ts";

pub fn build(b: *std.Build) void {
    const link_help = "link libascendcl.so at build time instead of opening it at run time";
    const link_ascendcl = b.option(bool, "link-ascendcl", link_help) orelse false;
    const path_help = "the folder that holds libascendcl.so, for -Dlink-ascendcl";
    const ascendcl_path = b.option([]const u8, "ascendcl-path", path_help);
    const shim_options = b.addOptions();
    shim_options.addOption(bool, "link_ascendcl", link_ascendcl);

    const optimize_help = "how to build the shim; by default as it is shipped";
    const optimize = b.option(std.builtin.OptimizeMode, "shim-optimize", optimize_help) orelse .ReleaseSafe;

    const release = b.step("release", "build the libraries of every platform");
    for (platforms) |platform| {
        const target = b.resolveTargetQuery(.{
            .cpu_arch = platform.arch,
            .cpu_model = .baseline,
            .os_tag = .linux,
            .abi = platform.abi,
            .glibc_version = if (platform.abi == .gnu) glibc_floor else null,
        });
        const shim = addShim(b, target, optimize, shim_options);
        if (link_ascendcl) {
            if (ascendcl_path) |path| shim.root_module.addLibraryPath(.{ .cwd_relative = path });
            shim.root_module.linkSystemLibrary("ascendcl", .{ .use_pkg_config = .no });
        }
        const emulator = addEmulator(b, target);
        const steps = [_]*std.Build.Step{
            installBelow(b, shim, platform.name),
            installBelow(b, addPreload(b, target, optimize, "preload/preload.zig", "camem_preload"), platform.name),
            installBelow(b, emulator, b.fmt("{s}/emulator", .{platform.name})),
        };
        for (steps) |step| {
            release.dependOn(step);
            const is_own = platform.arch == b.graph.host.result.cpu.arch and platform.abi == .gnu;
            if (is_own) b.getInstallStep().dependOn(step);
        }
    }

    const host = b.resolveTargetQuery(.{ .cpu_model = .baseline, .abi = .gnu, .glibc_version = glibc_floor });
    addTests(b, host, shim_options);
    addBindings(b, host, shim_options);
    const sanitize_help = "build test programs with the thread sanitizer";
    const sanitize_thread = b.option(bool, "sanitize-thread", sanitize_help) orelse false;
    addStress(b, host, sanitize_thread);
    addPreloadStress(b, host, sanitize_thread);
    const program = addEmulatedProgram(b, "control-program", "src/control_program.zig", host, sanitize_thread);
    const install = b.addInstallArtifact(program, .{ .dest_dir = .{ .override = .{ .custom = "test" } } });
    b.step("control-program", "build an engine for tests of the control socket").dependOn(&install.step);
}

/// What the shim and the emulator share.
fn addShared(b: *std.Build, module: *std.Build.Module) void {
    module.addImport("acl", b.createModule(.{ .root_source_file = b.path("src/acl.zig") }));
    module.addImport("c_function", b.createModule(.{ .root_source_file = b.path("src/c_function.zig") }));
}

fn addShim(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    optimize: std.builtin.OptimizeMode,
    options: *std.Build.Step.Options,
) *std.Build.Step.Compile {
    const module = b.createModule(.{
        .root_source_file = b.path("src/libcamem.zig"),
        .target = target,
        .optimize = optimize,
        .link_libc = true,
        .strip = optimize != .Debug,
    });
    addShared(b, module);
    module.addOptions("build_options", options);
    return b.addLibrary(.{ .name = "camem", .linkage = .dynamic, .root_module = module });
}

/// The library that is loaded in front of AscendCL, which the program opens.
fn addPreload(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    optimize: std.builtin.OptimizeMode,
    root: []const u8,
    name: []const u8,
) *std.Build.Step.Compile {
    const module = b.createModule(.{
        .root_source_file = b.path(root),
        .target = target,
        .optimize = optimize,
        .link_libc = true,
        .strip = optimize != .Debug,
    });
    addCore(b, module, false);
    return b.addLibrary(.{ .name = name, .linkage = .dynamic, .root_module = module });
}

/// What the preload library imports.
fn addCore(b: *std.Build, module: *std.Build.Module, link_ascendcl: bool) void {
    const options = b.addOptions();
    options.addOption(bool, "link_ascendcl", link_ascendcl);
    const build_options = options.createModule();
    const core = b.createModule(.{ .root_source_file = b.path("src/core.zig") });
    addShared(b, core);
    core.addImport("build_options", build_options);
    module.addImport("core", core);
    for ([_][]const u8{ "acl", "c_function" }) |shared|
        module.addImport(shared, core.import_table.get(shared).?);
    module.addImport("build_options", build_options);
}

fn addEmulator(b: *std.Build, target: std.Build.ResolvedTarget) *std.Build.Step.Compile {
    const module = b.createModule(.{
        .root_source_file = b.path("emulator/emulator.zig"),
        .target = target,
        .optimize = .ReleaseSafe,
        .link_libc = true,
        .strip = true,
    });
    addShared(b, module);
    return b.addLibrary(.{ .name = "ascendcl", .linkage = .dynamic, .root_module = module });
}

fn installBelow(b: *std.Build, artifact: *std.Build.Step.Compile, folder: []const u8) *std.Build.Step {
    return &b.addInstallArtifact(artifact, .{ .dest_dir = .{ .override = .{ .custom = folder } } }).step;
}

fn addTests(b: *std.Build, target: std.Build.ResolvedTarget, options: *std.Build.Step.Options) void {
    const step = b.step("test", "run the Zig unit tests");
    for ([_][]const u8{ "src/tests.zig", "src/bindings.zig", "emulator/tests.zig" }) |root| {
        const module = addModule(b, root, target, options);
        const bindings: std.Build.LazyPath = .{ .cwd_relative = b.pathFromRoot(bindings_path) };
        module.addAnonymousImport("symbols.gen.ts", .{ .root_source_file = bindings });
        step.dependOn(&b.addRunArtifact(b.addTest(.{ .root_module = module })).step);
    }
    const preload = b.createModule(.{
        .root_source_file = b.path("preload/tests.zig"),
        .target = target,
        .optimize = .Debug,
        .link_libc = true,
    });
    addCore(b, preload, false);
    step.dependOn(&b.addRunArtifact(b.addTest(.{ .root_module = preload })).step);
    const run = b.addRunArtifact(b.addTest(.{
        .root_module = addEmulatedModule(b, "src/exhaustion_test.zig", target),
        .filters = &.{"exhaustion_test.test"}, // the loader's tests need a search
    }));
    run.setEnvironmentVariable("CAMEM_EMULATOR_DEVICES", "2");
    step.dependOn(&run.step);
}

/// `zig build bindings` rewrites the TypeScript symbol table from the exports of `abi.zig`.
fn addBindings(b: *std.Build, target: std.Build.ResolvedTarget, options: *std.Build.Step.Options) void {
    const module = addModule(b, "src/bindings.zig", target, options);
    const generate = b.addRunArtifact(b.addExecutable(.{ .name = "bindings", .root_module = module }));
    const output = generate.captureStdOut(.{});
    const update = b.addUpdateSourceFiles();
    update.addCopyFileToSource(output, bindings_path);
    b.step("bindings", "rewrite src/ffi/symbols.gen.ts").dependOn(&update.step);
}

/// `zig build stress -- <cycles>`: the shim and the emulator in one program, for safety checks and the thread
/// sanitizer.
fn addStress(b: *std.Build, target: std.Build.ResolvedTarget, sanitize_thread: bool) void {
    const run = b.addRunArtifact(addEmulatedProgram(b, "stress", "src/stress.zig", target, sanitize_thread));
    run.has_side_effects = true; // no two runs are alike
    if (b.args) |arguments| run.addArgs(arguments);
    b.step("stress", "hammer the shim from native threads while everything sleeps and wakes").dependOn(&run.step);
}

/// `zig build stress-preload -- <cycles>`: the same with the preload library.
fn addPreloadStress(b: *std.Build, target: std.Build.ResolvedTarget, sanitize_thread: bool) void {
    const module = b.createModule(.{
        .root_source_file = b.path("preload/stress.zig"),
        .target = target,
        .optimize = .Debug,
        .link_libc = true,
        .sanitize_thread = sanitize_thread,
    });
    addCore(b, module, true);
    const emulator = b.createModule(.{ .root_source_file = b.path("emulator/emulator.zig") });
    for ([_][]const u8{ "acl", "c_function" }) |name| emulator.addImport(name, module.import_table.get(name).?);
    module.addImport("emulator", emulator);
    const run = b.addRunArtifact(b.addExecutable(.{
        .name = "stress-preload",
        .root_module = module,
        .use_llvm = if (sanitize_thread) true else null,
    }));
    run.has_side_effects = true; // no two runs are alike
    if (b.args) |arguments| run.addArgs(arguments);
    b.step("stress-preload", "hammer the preload library while everything sleeps").dependOn(&run.step);
}

/// The shim and the emulator in one program.
fn addEmulatedProgram(
    b: *std.Build,
    name: []const u8,
    root: []const u8,
    target: std.Build.ResolvedTarget,
    sanitize_thread: bool,
) *std.Build.Step.Compile {
    const module = addEmulatedModule(b, root, target);
    module.sanitize_thread = sanitize_thread;
    return b.addExecutable(.{
        .name = name,
        .root_module = module,
        // Zig's own code generator ignores the sanitizer without a word.
        .use_llvm = if (sanitize_thread) true else null,
    });
}

fn addEmulatedModule(b: *std.Build, root: []const u8, target: std.Build.ResolvedTarget) *std.Build.Module {
    const options = b.addOptions();
    options.addOption(bool, "link_ascendcl", true);
    const module = addModule(b, root, target, options);
    const emulator = b.createModule(.{ .root_source_file = b.path("emulator/emulator.zig") });
    for ([_][]const u8{ "acl", "c_function" }) |name|
        emulator.addImport(name, module.import_table.get(name).?);
    module.addImport("emulator", emulator);
    return module;
}

fn addModule(
    b: *std.Build,
    root: []const u8,
    target: std.Build.ResolvedTarget,
    options: *std.Build.Step.Options,
) *std.Build.Module {
    const module = b.createModule(.{
        .root_source_file = b.path(root),
        .target = target,
        .optimize = .Debug,
        .link_libc = true,
    });
    addShared(b, module);
    module.addOptions("build_options", options);
    return module;
}
