//! Gives a Zig function C's calling convention. Zig cannot generate a parameter list, so each number of parameters has
//! its own form here.

pub fn Result(comptime function: anytype) type {
    return @typeInfo(@TypeOf(function)).@"fn".return_type.?;
}

fn Parameter(comptime function: anytype, comptime index: usize) type {
    return @typeInfo(@TypeOf(function)).@"fn".params[index].type.?;
}

fn parameterCount(comptime function: anytype) usize {
    return @typeInfo(@TypeOf(function)).@"fn".params.len;
}

/// The type of `function` with C's calling convention.
pub fn Of(comptime function: anytype) type {
    const count = parameterCount(function);
    var types: [count]type = undefined;
    for (&types, 0..) |*parameter, index| parameter.* = Parameter(function, index);
    return @Fn(&types, &@splat(.{}), Result(function), .{ .@"callconv" = .c });
}

/// A C function with the parameters of `function`, which passes them to `call` as a tuple.
pub fn from(comptime function: anytype, comptime call: anytype) *const Of(function) {
    if (comptime parameterCount(function) > 5) return fromMany(function, call);
    const R = Result(function);
    const P = struct {
        fn at(comptime index: usize) type {
            return Parameter(function, index);
        }
    }.at;
    const Form = switch (comptime parameterCount(function)) {
        0 => struct {
            fn entry() callconv(.c) R {
                return call(.{});
            }
        },
        1 => struct {
            fn entry(a: P(0)) callconv(.c) R {
                return call(.{a});
            }
        },
        2 => struct {
            fn entry(a: P(0), b: P(1)) callconv(.c) R {
                return call(.{ a, b });
            }
        },
        3 => struct {
            fn entry(a: P(0), b: P(1), c: P(2)) callconv(.c) R {
                return call(.{ a, b, c });
            }
        },
        4 => struct {
            fn entry(a: P(0), b: P(1), c: P(2), d: P(3)) callconv(.c) R {
                return call(.{ a, b, c, d });
            }
        },
        5 => struct {
            fn entry(a: P(0), b: P(1), c: P(2), d: P(3), e: P(4)) callconv(.c) R {
                return call(.{ a, b, c, d, e });
            }
        },
        else => unreachable,
    };
    return &Form.entry;
}

fn fromMany(comptime function: anytype, comptime call: anytype) *const Of(function) {
    const R = Result(function);
    const P = struct {
        fn at(comptime index: usize) type {
            return Parameter(function, index);
        }
    }.at;
    const Form = switch (comptime parameterCount(function)) {
        6 => struct {
            fn entry(a: P(0), b: P(1), c: P(2), d: P(3), e: P(4), f: P(5)) callconv(.c) R {
                return call(.{ a, b, c, d, e, f });
            }
        },
        7 => struct {
            fn entry(a: P(0), b: P(1), c: P(2), d: P(3), e: P(4), f: P(5), g: P(6)) callconv(.c) R {
                return call(.{ a, b, c, d, e, f, g });
            }
        },
        8 => struct {
            fn entry(a: P(0), b: P(1), c: P(2), d: P(3), e: P(4), f: P(5), g: P(6), h: P(7)) callconv(.c) R {
                return call(.{ a, b, c, d, e, f, g, h });
            }
        },
        9 => struct {
            fn entry(
                a: P(0),
                b: P(1),
                c: P(2),
                d: P(3),
                e: P(4),
                f: P(5),
                g: P(6),
                h: P(7),
                i: P(8),
            ) callconv(.c) R {
                return call(.{ a, b, c, d, e, f, g, h, i });
            }
        },
        10 => struct {
            fn entry(
                a: P(0),
                b: P(1),
                c: P(2),
                d: P(3),
                e: P(4),
                f: P(5),
                g: P(6),
                h: P(7),
                i: P(8),
                j: P(9),
            ) callconv(.c) R {
                return call(.{ a, b, c, d, e, f, g, h, i, j });
            }
        },
        else => @compileError("add a form for more parameters here"),
    };
    return &Form.entry;
}
