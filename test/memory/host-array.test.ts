/** Host data of `write` and `readInto`: anything that shows bytes, or a typed error. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { runInNewContext } from "node:vm";
import { CaMemAllocator, type DeviceBuffer } from "camem";
import { codeOf } from "../support/device.ts";

let allocator: CaMemAllocator;
let buffer: DeviceBuffer;

beforeEach(() => {
  allocator = CaMemAllocator.getInstance();
  buffer = allocator.malloc(4);
});

afterEach(() => allocator.close());

function detached(): ArrayBuffer {
  const source = new ArrayBuffer(4);
  structuredClone(source, { transfer: [source] });
  return source;
}

function beyondItsBuffer(): DataView {
  const source = new ArrayBuffer(4, { maxByteLength: 4 });
  const view = new DataView(source, 2, 2);
  source.resize(1);
  return view;
}

test.each([
  ["a detached buffer", detached],
  ["a view of a buffer that has shrunk", beyondItsBuffer],
])("write() and readInto() refuse %s", async (_name, make) => {
  const data = make();
  expect(await codeOf(() => buffer.write(data))).toBe("INVALID_ARGUMENT");
  expect(await codeOf(() => buffer.readInto(data))).toBe("INVALID_ARGUMENT");
});

test("write() and readInto() accept buffers of another realm", () => {
  const bytes: ArrayBuffer = runInNewContext("Uint8Array.of(1, 2, 3, 4).buffer");
  buffer.write(bytes);
  const target: ArrayBuffer = runInNewContext("new ArrayBuffer(4)");
  buffer.readInto(target);
  expect([...new Uint8Array(target)]).toEqual([1, 2, 3, 4]);
});
