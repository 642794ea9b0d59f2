//! A program that starts another one in its place ends there: these functions override libc's.
const std = @import("std");
const builtin = @import("builtin");
const signals = @import("signals.zig");

const Text = ?[*:0]const u8;
const Texts = [*:null]const Text;
const Two = fn (Text, Texts) callconv(.c) c_int;
const Three = fn (Text, Texts, Texts) callconv(.c) c_int;

/// What is done before.
pub var before: ?*const fn () void = null;

fn two(name: [*:0]const u8, path: Text, arguments: Texts) c_int {
    if (before) |call| call();
    return signals.hidden(Two, name)(path, arguments);
}

fn three(name: [*:0]const u8, path: Text, arguments: Texts, environment: Texts) c_int {
    if (before) |call| call();
    return signals.hidden(Three, name)(path, arguments, environment);
}

export fn execv(path: Text, arguments: Texts) c_int {
    return two("execv", path, arguments);
}

export fn execvp(file: Text, arguments: Texts) c_int {
    return two("execvp", file, arguments);
}

export fn execve(path: Text, arguments: Texts, environment: Texts) c_int {
    return three("execve", path, arguments, environment);
}

export fn execvpe(file: Text, arguments: Texts, environment: Texts) c_int {
    return three("execvpe", file, arguments, environment);
}

comptime {
    // Zig cannot take arguments one by one on other processors.
    if (builtin.cpu.arch == .x86_64) {
        @export(&execl, .{ .name = "execl" });
        @export(&execlp, .{ .name = "execlp" });
        @export(&execle, .{ .name = "execle" });
    }
}

fn execl(path: Text, first: Text, ...) callconv(.c) c_int {
    var rest = @cVaStart();
    defer @cVaEnd(&rest);
    var list: List = .of(first, &rest);
    return two("execv", path, list.texts());
}

fn execlp(file: Text, first: Text, ...) callconv(.c) c_int {
    var rest = @cVaStart();
    defer @cVaEnd(&rest);
    var list: List = .of(first, &rest);
    return two("execvp", file, list.texts());
}

fn execle(path: Text, first: Text, ...) callconv(.c) c_int {
    var rest = @cVaStart();
    defer @cVaEnd(&rest);
    var list: List = .of(first, &rest);
    return three("execve", path, list.texts(), @cVaArg(&rest, Texts));
}

/// Arguments one by one as a list; of more than it holds the last are left out.
const List = struct {
    items: [1024]Text = undefined,

    fn of(first: Text, rest: *std.builtin.VaList) List {
        var list: List = .{};
        var next = first;
        var count: usize = 0;
        while (next != null) : (next = @cVaArg(rest, Text)) {
            if (count + 1 == list.items.len) continue;
            list.items[count] = next;
            count += 1;
        }
        list.items[count] = null;
        return list;
    }

    fn texts(list: *List) Texts {
        return @ptrCast(&list.items);
    }
};
