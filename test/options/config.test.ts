import { expect, test } from "bun:test";
import { CamemError } from "camem";
import { resolveConfig } from "../../src/options/allocator-options.ts";
import { formatSize, parseSize } from "../../src/options/sizes.ts";

function refusal(run: () => unknown): CamemError {
  try {
    run();
  } catch (error) {
    if (error instanceof CamemError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

test("option overrides its environment variable, which overrides the default", () => {
  const environment = { CAMEM_BACKEND: "emulator", CAMEM_HOST_BUDGET: "8GiB", CAMEM_DEVICE: "1" };
  expect(resolveConfig({}, {})).toEqual({
    backend: "ascend",
    aclLibrary: null,
    device: 0,
    hostBudgetBytes: null,
    pageable: false,
    poolSegmentBytes: 32 * 2 ** 20,
    prepareOnLoad: false,
    retainBytes: 0,
    retainIdleMs: Number.POSITIVE_INFINITY,
    spillDir: null,
    unknownTags: "discard",
    verify: false,
  });
  expect(resolveConfig({ hostBudget: "1GiB" }, environment)).toMatchObject({
    backend: "emulator",
    device: 1,
    hostBudgetBytes: 2 ** 30,
  });
  expect(resolveConfig({}, { CAMEM_ACL_LIBRARY: "/x/libascendcl.so" }).aclLibrary).toBe("/x/libascendcl.so");
});

test("undefined option leaves the environment variable in effect", () => {
  expect(resolveConfig({ backend: undefined } as never, { CAMEM_BACKEND: "emulator" }).backend).toBe(
    "emulator",
  );
});

test("empty environment variable counts as unset", () => {
  expect(resolveConfig({}, { CAMEM_BACKEND: "", CAMEM_HOST_BUDGET: "" })).toEqual(resolveConfig({}, {}));
});

test.each([
  [{ backend: "cuda" }, 'backend is "cuda"'],
  [{ aclLibrary: "" }, 'aclLibrary is ""'],
  [{ device: -1 }, "device is -1"],
  [{ device: 0.5 }, "device is 0.5"],
  [
    { hostBudget: "lots" },
    'hostBudget (CAMEM_HOST_BUDGET) is "lots"; it must be bytes, or a size in B, KiB, MiB, GiB or TiB such as "8GiB", or "unlimited"',
  ],
  [{ hostBudget: -1 }, "hostBudget is -1"],
  [{ hostBudget: "8GB" }, 'is "8GB"; it must be bytes, or a size in B, KiB, MiB, GiB or TiB'],
  [{ hostBudget: 8n }, "hostBudget is 8n (a bigint)"],
  [{ device: 0n }, "device is 0n (a bigint)"],
  [{ hostBudget: 2 ** 60 }, "is 1152921504606847000 (too large: beyond 2^53 - 1)"],
  [{ poolSegment: "9000TiB" }, 'is "9000TiB" (too large: beyond 2^53 - 1)'],
  [{ retain: "9000TiB" }, 'is "9000TiB" (too large: beyond 2^53 - 1)'],
  [{ poolSegment: 0 }, "poolSegment (CAMEM_POOL_SEGMENT) is 0"],
  [{ verify: "yes" }, 'verify is "yes"'],
  [{ unknownTags: "keep" }, 'unknownTags is "keep"; it must be "discard", "offload" or "refuse"'],
  [
    { hostbudget: 1 },
    'getInstance has no option "hostbudget"; did you mean "hostBudget"? Its options are "backend"',
  ],
  [{ retain: { max: 1 } }, 'retain has no option "max"; its options are "maxBytes", "idleMs"'],
  [{ retain: { idleMs: 0 } }, "idleMs is 0"],
])("getInstance() names the invalid option %#", (options, message) => {
  const error = refusal(() => resolveConfig(options as never, {}));
  expect(error.code).toBe("INVALID_CONFIG");
  expect(error.message).toContain(message);
});

test.each([
  [{ CAMEM_BACKEND: "cuda" }, 'CAMEM_BACKEND is "cuda"'],
  [{ CAMEM_VERIFY: "yes" }, 'CAMEM_VERIFY is "yes"'],
  [{ CAMEM_UNKNOWN_TAGS: "keep" }, 'CAMEM_UNKNOWN_TAGS is "keep"'],
  [{ CAMEM_DEVICE: "one" }, 'CAMEM_DEVICE is "one"'],
  [{ CAMEM_HOST_BUDGET: "8 gigs" }, '(CAMEM_HOST_BUDGET) is "8 gigs"'],
])("getInstance() names the invalid environment variable %j", (environment, message) => {
  const error = refusal(() => resolveConfig({}, environment));
  expect(error.code).toBe("INVALID_CONFIG");
  expect(error.message).toContain(message);
});

test("parseSize() and formatSize() use binary units", () => {
  expect(parseSize("8GiB")).toBe(8 * 2 ** 30);
  expect(parseSize(" 1.5 MiB ")).toBe(1.5 * 2 ** 20);
  expect(parseSize("4096")).toBe(4096);
  for (const wrong of ["", "GiB", "-1", "1e9", "1GB", "0.5B", "99999999TiB"])
    expect(parseSize(wrong)).toBeUndefined();
  expect(formatSize(1536)).toBe("1.5 KiB");
  expect(formatSize(0)).toBe("0 B");
});

test("retain accepts a word, a size, or a size with an idle time", () => {
  const retention = (retain: never) => {
    const { retainBytes, retainIdleMs } = resolveConfig({ retain }, {});
    return [retainBytes, retainIdleMs];
  };
  const forEver = Number.POSITIVE_INFINITY;
  expect(retention("all" as never)).toEqual([forEver, forEver]);
  expect(retention("none" as never)).toEqual([0, forEver]);
  expect(retention("8GiB" as never)).toEqual([2 ** 33, forEver]);
  expect(retention({ maxBytes: 1024, idleMs: 500 } as never)).toEqual([1024, 500]);
  expect(retention({ idleMs: 500 } as never)).toEqual([forEver, 500]);
  expect(resolveConfig({}, { CAMEM_RETAIN: "all" }).retainBytes).toBe(forEver);
  for (const bad of ["some", -1, { idleMs: 0 }, { idleMs: -1 }, { max: 1 }, { maxBytes: "x" }, true])
    expect(refusal(() => resolveConfig({ retain: bad as never }, {})).code).toBe("INVALID_CONFIG");
});

test("spillDir must be an existing folder", () => {
  expect(resolveConfig({ spillDir: "/tmp" }, {}).spillDir).toBe("/tmp");
  for (const bad of ["/nowhere/at/all", import.meta.filename]) {
    const error = refusal(() => resolveConfig({ spillDir: bad }, {}));
    expect(error.code).toBe("INVALID_CONFIG");
    expect(error.message).toContain(bad);
  }
});
