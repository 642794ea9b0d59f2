//! Steps: install (the library), test (Zig unit tests), abi (the generated TypeScript to standard
//! output, which `bun run abi` writes into src), fmt, emulator, races.
const std = @import("std");
const builtin = @import("builtin");

const zig_version = @import("toolchain.zon").ziglang;

comptime {
    if (!std.mem.eql(u8, builtin.zig_version_string, zig_version)) {
        @compileError("flashbun builds with Zig " ++ zig_version ++ " exactly, this is " ++
            builtin.zig_version_string ++ ". `npx -y bun@1.4.5 run build` fetches the right one.");
    }
}

/// Where scripts/images.ts leaves the kernels: a file of one place, so that only a change of its
/// content compiles the library again.
const images_path = ".toolchain/images/images.bin";

const Options = struct {
    /// The oldest glibc that runs the library; without libc its threads would never start.
    target: std.Build.ResolvedTarget,
    optimize: std.builtin.OptimizeMode,
    cuda: bool,
    bun: []const u8,
};

const Steps = struct {
    @"test": *std.Build.Step,
    abi: *std.Build.Step,
    fmt: *std.Build.Step,
    emulator: *std.Build.Step,
    races: *std.Build.Step,
};

const emulator_sources = [_][]const u8{
    "api.cpp",
    "api_device.cpp",
    "api_graph.cpp",
    "api_kernel.cpp",
    "api_stream.cpp",
    "asynchronous.cpp",
    "block.cpp",
    "bulk.cpp",
    "fault.cpp",
    "graph.cpp",
    "launch.cpp",
    "library.cpp",
    "matrix.cpp",
    "memory.cpp",
    "options.cpp",
    "scheduler.cpp",
    "shared.cpp",
    "stream.cpp",
    "warp.cpp",
    "wgmma.cpp",
};

const Level = struct { name: []const u8, cpu: []const u8 };

/// v4 names 256-bit vectors away, else the compiler halves every 512-bit operation.
const x86_levels = [_]Level{
    .{ .name = "baseline", .cpu = "x86_64" },
    .{ .name = "v3", .cpu = "x86_64_v3" },
    .{ .name = "v4", .cpu = "x86_64_v4-prefer_256_bit" },
};
const other_levels = [_]Level{.{ .name = "baseline", .cpu = "baseline" }};

/// Small libraries that go into other programs, for debloat.
const companions = [_]Companion{
    .{ .name = "trace" },
    .{ .name = "pager" },
    .{ .name = "redirect", .libc = false, .first = false },
};

const Companion = struct {
    name: []const u8,
    libc: bool = true,
    /// Whether its constructor runs before those of the program's libraries.
    first: bool = true,
};

pub fn build(b: *std.Build) void {
    const options: Options = .{
        .target = b.standardTargetOptions(.{ .default_target = .{
            .cpu_arch = builtin.cpu.arch,
            .os_tag = .linux,
            .abi = .gnu,
            .glibc_version = .{ .major = 2, .minor = 28, .patch = 0 },
        } }),
        .optimize = b.option(
            std.builtin.OptimizeMode,
            "optimize",
            "Build mode (default: fast)",
        ) orelse .fast,
        .cuda = b.option(bool, "cuda", "Embed kernels compiled with the pinned nvcc") orelse false,
        .bun = b.option(
            []const u8,
            "bun",
            "Bun that runs scripts (default: from the PATH)",
        ) orelse "bun",
    };
    const steps: Steps = .{
        .@"test" = b.step("test", "Run the Zig unit tests"),
        .abi = b.step("abi", "Print the generated packers and offsets"),
        .fmt = b.step("fmt", "Check the format of Zig sources"),
        .emulator = b.step("emulator", "Build the emulated GPU (libcuda-emulated.so)"),
        .races = b.step("races", "Build the race detector for it (librace-detector.so)"),
    };
    const params = translate(b, options);

    const empty = b.addWriteFiles().add("images.bin", "");
    const images = if (options.cuda) b.path(images_path) else empty;
    const library = b.addLibrary(.{
        .name = "flashbun",
        .linkage = .dynamic,
        .root_module = root_module(b, options, params, images),
    });
    if (options.cuda) library.step.dependOn(compile_images(b, options));
    b.installArtifact(library);
    for (companions) |companion| install_companion(b, options, companion);

    const tests = b.addTest(.{ .root_module = root_module(b, options, params, empty) });
    steps.@"test".dependOn(&b.addRunArtifact(tests).step);
    const tracer_tests = b.addTest(.{ .root_module = b.createModule(.{
        .root_source_file = b.path("zig/trace/trace.zig"),
        .target = options.target,
        .optimize = options.optimize,
        .link_libc = true,
    }) });
    steps.@"test".dependOn(&b.addRunArtifact(tracer_tests).step);

    const generator = b.addExecutable(.{ .name = "generate", .root_module = b.createModule(.{
        .root_source_file = b.path("zig/generate.zig"),
        .target = b.graph.host,
        .optimize = .debug,
        .imports = &.{.{ .name = "params", .module = plain(b, params) }},
    }) });
    steps.abi.dependOn(&b.addRunArtifact(generator).step);
    const formatted = &.{ b.path("zig"), b.path("build.zig") };
    steps.fmt.dependOn(&b.addFmt(.{ .paths = formatted, .check = true }).step);
    const x86 = options.target.result.cpu.arch == .x86_64;
    steps.emulator.dependOn(if (x86)
        &b.addInstallArtifact(emulator(b, options), .{}).step
    else
        &b.addFail("the emulated GPU's threads switch in x86-64 assembly").step);
    steps.races.dependOn(&b.addInstallArtifact(race_detector(b, options), .{}).step);
}

fn install_companion(b: *std.Build, options: Options, companion: Companion) void {
    const name = b.fmt("flashbun-{s}", .{companion.name});
    const library = b.addLibrary(.{
        .name = name,
        .linkage = .dynamic,
        .root_module = b.createModule(.{
            .root_source_file = b.path(b.fmt("zig/trace/{s}.zig", .{companion.name})),
            .target = options.target,
            .optimize = .small,
            .link_libc = companion.libc,
            .pic = true,
            .strip = true,
        }),
    });
    if (!companion.first) return b.installArtifact(library);
    const mark = b.addRunArtifact(b.addExecutable(.{
        .name = "first",
        .root_module = b.createModule(.{
            .root_source_file = b.path("zig/trace/first.zig"),
            .target = b.graph.host,
            .optimize = .debug,
        }),
    }));
    mark.addArtifactArg(library);
    const file = b.fmt("lib{s}.so", .{name});
    const install = b.addInstallLibFile(mark.addOutputFileArg(file), file);
    b.getInstallStep().dependOn(&install.step);
}

/// A replacement for libcuda.so.1: its kernels are images compiled for the host.
fn emulator(b: *std.Build, options: Options) *std.Build.Step.Compile {
    var query = options.target.query;
    query.cpu_model = .{ .explicit = &std.Target.x86.cpu.x86_64_v3 };
    const module = b.createModule(.{
        .target = b.resolveTargetQuery(query),
        .optimize = .fast,
        .link_libcpp = true,
        .pic = true,
        .strip = true,
    });
    module.addCSourceFiles(.{
        .root = b.path("zig/emulator"),
        .files = &emulator_sources,
        .flags = &.{
            "-std=c++20",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fno-exceptions",
            "-fno-rtti",
        },
    });
    const library = b.addLibrary(.{
        .name = "cuda-emulated",
        .linkage = .dynamic,
        .root_module = module,
    });
    library.setVersionScript(b.path("zig/emulator/exports.map"));
    return library;
}

/// ThreadSanitizer's runtime, which comes with Zig, as a library to preload.
fn race_detector(b: *std.Build, options: Options) *std.Build.Step.Compile {
    const module = b.createModule(.{
        .target = options.target,
        .optimize = .fast,
        .link_libc = true,
        .pic = true,
        .sanitize_thread = true,
    });
    module.addCSourceFile(.{ .file = b.path("zig/emulator/race_detector.cpp"), .flags = &.{} });
    return b.addLibrary(.{ .name = "race-detector", .linkage = .dynamic, .root_module = module });
}

/// All headers of kernels/params in one translation; one that is added need not be named here.
fn translate(b: *std.Build, options: Options) *std.Build.Step.TranslateC {
    const folder = "kernels/params";
    b.dependOnDirectoryContents(b.path(folder));
    const names = headers_of(b, folder) catch |err| std.process.fatal("{s}: {t}", .{ folder, err });
    var text: std.ArrayList(u8) = .empty;
    for (names) |name| {
        text.print(b.allocator, "#include \"{s}\"\n", .{name}) catch @panic("OOM");
    }
    const step = b.addTranslateC(.{
        .root_source_file = b.addWriteFiles().add("params.h", text.items),
        .target = options.target,
        .optimize = options.optimize,
    });
    step.addIncludePath(b.path(folder));
    return step;
}

/// Sorted, so that the translation does not depend on the file system.
fn headers_of(b: *std.Build, folder: []const u8) ![]const []const u8 {
    const io = b.graph.io;
    var directory = try b.root.openDir(io, folder, .{ .iterate = true });
    defer directory.close(io);
    var names: std.ArrayList([]const u8) = .empty;
    var entries = directory.iterate();
    while (try entries.next(io)) |entry| {
        if (!std.mem.endsWith(u8, entry.name, ".h")) continue;
        try names.append(b.allocator, b.dupe(entry.name));
    }
    std.mem.sort([]const u8, names.items, {}, lies_before);
    return names.items;
}

fn lies_before(_: void, a: []const u8, b: []const u8) bool {
    return std.mem.lessThan(u8, a, b);
}

/// The translated header as a module that takes the target of its importer.
fn plain(b: *std.Build, params: *std.Build.Step.TranslateC) *std.Build.Module {
    return b.createModule(.{ .root_source_file = params.getOutput() });
}

/// Compiles kernels into the blob that the library holds.
fn compile_images(b: *std.Build, options: Options) *std.Build.Step {
    const run = b.addSystemCommand(&.{ options.bun, "scripts/images.ts", images_path });
    run.setCwd(b.path("."));
    // The script knows what is already there and is cheap then.
    run.has_side_effects = true;
    return &run.step;
}

fn root_module(
    b: *std.Build,
    options: Options,
    params: *std.Build.Step.TranslateC,
    images: std.Build.LazyPath,
) *std.Build.Module {
    const module = b.createModule(.{
        .root_source_file = b.path("zig/root.zig"),
        .target = options.target,
        .optimize = options.optimize,
        .link_libc = true,
        .strip = options.optimize != .debug,
        .imports = &.{.{ .name = "params", .module = plain(b, params) }},
    });
    module.addAnonymousImport("images", .{ .root_source_file = images });
    const x86 = options.target.result.cpu.arch == .x86_64;
    for (if (x86) &x86_levels else &other_levels) |level| {
        module.addObject(level_object(b, options, params, level));
    }
    return module;
}

fn level_object(
    b: *std.Build,
    options: Options,
    params: *std.Build.Step.TranslateC,
    level: Level,
) *std.Build.Step.Compile {
    var query = options.target.query;
    const parsed = std.Target.Query.parse(.{
        .arch_os_abi = b.fmt("{t}-linux", .{options.target.result.cpu.arch}),
        .cpu_features = level.cpu,
    }) catch @panic("a CPU level of build.zig has a name Zig does not know");
    query.cpu_model = parsed.cpu_model;
    query.cpu_features_add = parsed.cpu_features_add;
    query.cpu_features_sub = parsed.cpu_features_sub;
    const configuration = b.addOptions();
    configuration.addOption([]const u8, "level", level.name);
    return b.addObject(.{
        .name = b.fmt("cpu_{s}", .{level.name}),
        .root_module = b.createModule(.{
            .root_source_file = b.path("zig/cpu/level.zig"),
            .target = b.resolveTargetQuery(query),
            .optimize = options.optimize,
            .link_libc = true,
            .pic = true,
            .strip = options.optimize != .debug,
            .imports = &.{
                .{ .name = "params", .module = plain(b, params) },
                .{ .name = "options", .module = configuration.createModule() },
            },
        }),
    });
}
