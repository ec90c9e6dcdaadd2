/** Tests that `npm test` runs on Bun but not on Deno, and why. */

interface Exception {
  readonly reason: string;
  readonly files?: readonly string[];
  /** How the names of tests begin, without those of the describes around them. */
  readonly tests?: readonly string[];
}

export const onlyOnBun: readonly Exception[] = [
  {
    reason:
      "what Bun alone has is tested: its build for arm64, bundles, hot reloads, and packages that Bun installs",
    files: ["test/arm64.test.ts", "test/bundles.test.ts", "test/left-open.test.ts", "test/package.test.ts"],
  },
  {
    reason: "the lines of docs/server.md for hono and elysia serve by Bun.serve",
    files: ["test/server/http/frameworks.test.ts"],
  },
  {
    reason: "Deno.serve has no routes, which handler.routes is for; the handler itself is tested on Deno too",
    tests: [
      "handler.routes ",
      "handler accepts a malformed Host header",
      "createHandler() serves everybody who may open the socket",
      "createHandler() refuses connections over TCP",
      "createHandler() checks the token too",
    ],
  },
  {
    reason: "Deno.serve keeps the connection of an early answer open until the body has arrived",
    tests: [
      "/sleep answers 413 to a body that is too large",
      "/sleep answers 408 when the body does not arrive",
    ],
  },
  {
    reason: "the fetch of Deno replaces the Host header",
    tests: ["/camem answers 403 to other hosts with loopbackOnly"],
  },
  {
    reason: "a Worker of Deno has no environment of its own",
    files: ["test/workers.test.ts"],
    tests: [
      "sleep() in a Worker with verify compares a backup without a checksum",
      "close() in a Worker ends its load",
      "a Worker that is terminated during a load",
    ],
  },
  {
    reason:
      "child processes, whose programs use bun:ffi to make system calls and AscendCL misbehave, or Bun's -e",
    files: [
      "test/ffi/attachment.test.ts",
      "test/fault-injection/strict-runtime.test.ts",
      "test/server/engine/early-admission.test.ts",
    ],
    tests: [
      "a load does not write memory that a wake-up still moves",
      "a load keeps the memory of a tensor that is freed meanwhile",
      "memory that is ready can be read and written while the rest is copied",
      "what is written to ready memory stays when its tag becomes immutable",
      "sleep() loses nothing when the kernel refuses ordinary memory",
      "transition rejects and keeps the content when:",
      "spill files leave nothing on disk when the process is killed",
      "ready() resolves long before the wake-up ends",
    ],
  },
  {
    reason: "util.inspect of Deno writes a control character in lower case",
    tests: ["parseSafetensorsHeader() throws for: a terminal escape in the name"],
  },
];
