/** Helpers that work on both Bun and Deno: native calls, memory, servers, garbage collection. */

import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { currentRuntime } from "../../src/ffi/index.ts";

type Kind = "ptr" | "i32" | "u32" | "i64" | "u64";
type Value = NodeJS.TypedArray | number | bigint | null;

interface Signature {
  readonly args: readonly Kind[];
  readonly returns: "i32" | "u64" | "void";
}

interface Results {
  readonly i32: number;
  readonly u64: bigint;
  readonly void: undefined;
}

type Functions<Table extends Readonly<Record<string, Signature>>> = {
  readonly [Name in keyof Table]: (...values: Value[]) => Results[Table[Name]["returns"]];
};

/** Opens a library as camem does, with more types. */
export function openLibrary<const Table extends Readonly<Record<string, Signature>>>(
  path: string,
  table: Table,
): Functions<Table> {
  return currentRuntime().open(path, table as never) as unknown as Functions<Table>;
}

/** A server that answers every request with `fetch`. */
export interface TestListener extends AsyncDisposable {
  readonly port: number;
  readonly url: URL;
  /** Stops at once, also in the middle of answers. */
  stop(): Promise<void>;
}

export type Fetch<Server> = (request: Request, server: Server) => Response | Promise<Response>;

interface Deno {
  serve(
    options: { port: number; hostname: string; signal: AbortSignal; onListen: () => void },
    fetch: (request: Request, info: DenoInfo) => Response | Promise<Response>,
  ): { readonly addr: { readonly port: number }; readonly finished: Promise<void> };
  readonly UnsafePointer: { create(address: bigint): object };
  readonly UnsafePointerView: { getArrayBuffer(pointer: object, sizeBytes: number): ArrayBuffer };
}

interface DenoInfo {
  readonly remoteAddr: { readonly transport: string; readonly hostname: string };
}

const { Deno: deno } = globalThis as unknown as { readonly Deno?: Deno };

/** Serves on loopback; port 0 chooses one. */
export function serve(
  fetch: Fetch<Bun.Server<undefined> | DenoInfo>,
  { port = 0, hostname = "127.0.0.1" } = {},
): TestListener {
  const address = { port, hostname };
  const started = deno === undefined ? serveOnBun(fetch, address) : serveOnDeno(deno, fetch, address);
  const url = new URL(`http://${hostname}:${started.port}/`);
  return { ...started, url, [Symbol.asyncDispose]: started.stop };
}

interface Address {
  readonly port: number;
  readonly hostname: string;
}

type Started = Pick<TestListener, "port" | "stop">;

function serveOnBun(fetch: Fetch<Bun.Server<undefined>>, address: Address): Started {
  const server = Bun.serve({ ...address, fetch });
  return { port: Number(server.port), stop: () => server.stop(true) };
}

function serveOnDeno(runtime: Deno, fetch: Fetch<DenoInfo>, address: Address): Started {
  const stopping = new AbortController();
  const { signal } = stopping;
  const onListen = () => undefined;
  const server = runtime.serve({ ...address, signal, onListen }, fetch);
  const stop = () => {
    stopping.abort();
    return server.finished;
  };
  return { port: server.addr.port, stop };
}

/** The path of a program of this machine; undefined where there is none. */
export function which(name: string): string | undefined {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

/** The memory at an address, for reads and stray writes. */
export function memoryAt(address: number, sizeBytes: number): Uint8Array {
  if (deno !== undefined) {
    const pointer = deno.UnsafePointer.create(BigInt(address));
    return new Uint8Array(deno.UnsafePointerView.getArrayBuffer(pointer, sizeBytes));
  }
  const { toArrayBuffer } = process.getBuiltinModule("bun:ffi") as typeof import("bun:ffi");
  return new Uint8Array(toArrayBuffer(address as import("bun:ffi").Pointer, 0, sizeBytes));
}

/** On Deno this needs `--v8-flags=--expose-gc`. */
export function collectGarbage(): void {
  if (deno === undefined) Bun.gc(true);
  else globalThis.gc?.();
}
