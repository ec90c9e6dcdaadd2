//! C functions with the parameters of a type. Zig cannot generate a parameter list: here each number of parameters has
//! its own form.

pub fn Result(comptime Function: type) type {
    return @typeInfo(Function).@"fn".return_type.?;
}

fn Parameter(comptime Function: type, comptime index: usize) type {
    return @typeInfo(Function).@"fn".params[index].type.?;
}

fn parameterCount(comptime Function: type) usize {
    return @typeInfo(Function).@"fn".params.len;
}

/// `Function` with C's calling convention.
pub fn Of(comptime Function: type) type {
    const count = parameterCount(Function);
    var types: [count]type = undefined;
    for (&types, 0..) |*parameter, index| parameter.* = Parameter(Function, index);
    return @Fn(&types, &@splat(.{}), Result(Function), .{ .@"callconv" = .c });
}

/// A C function with the parameters of `Function`, which passes them to `call` as a tuple.
pub fn from(comptime Function: type, comptime call: anytype) *const Of(Function) {
    if (comptime parameterCount(Function) > 5) return fromMany(Function, call);
    const R = Result(Function);
    const P = struct {
        fn at(comptime index: usize) type {
            return Parameter(Function, index);
        }
    }.at;
    const Form = switch (comptime parameterCount(Function)) {
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

fn fromMany(comptime Function: type, comptime call: anytype) *const Of(Function) {
    const R = Result(Function);
    const P = struct {
        fn at(comptime index: usize) type {
            return Parameter(Function, index);
        }
    }.at;
    const Form = switch (comptime parameterCount(Function)) {
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
        else => return fromMost(Function, call),
    };
    return &Form.entry;
}

fn fromMost(comptime Function: type, comptime call: anytype) *const Of(Function) {
    const R = Result(Function);
    const P = struct {
        fn at(comptime index: usize) type {
            return Parameter(Function, index);
        }
    }.at;
    const Form = switch (comptime parameterCount(Function)) {
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
        12 => struct {
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
                k: P(10),
                l: P(11),
            ) callconv(.c) R {
                return call(.{ a, b, c, d, e, f, g, h, i, j, k, l });
            }
        },
        else => @compileError("add a form for more parameters here"),
    };
    return &Form.entry;
}
