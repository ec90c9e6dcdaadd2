/** Messages to an engine's control socket: right ones, wrong ones, and bytes that are no message. */

import { PlanStep, servedCalls } from "../../src/ffi/symbols.gen.ts";
import type { Random } from "../fuzz/random.ts";

type Call = (typeof servedCalls)[number];

/** A number, a slice with entries of so many bytes, or the capacity of an out-slice. */
type Part = "number" | "capacity" | { readonly entryBytes: number };

const text: Part = { entryBytes: 1 };

/** What each request consists of, written down a second time: the server derives it from the C ABI. */
export const requests: Readonly<Record<Call, readonly Part[]>> = {
  camem_runtime_info: [],
  camem_memory_info: ["number"],
  camem_tag_intern: [text],
  camem_tag_find: [text],
  camem_tag_name: ["number"],
  camem_tag_policy: ["number"],
  camem_tag_policies: ["capacity"],
  camem_tag_set_policy: ["number", "number", "number"],
  camem_tag_set_immutable: ["number", "number"],
  camem_segment_info: ["number", "number"],
  camem_snapshot: ["capacity"],
  camem_segment_groups: ["number", "capacity"],
  camem_usage: ["capacity"],
  camem_host_info: [],
  camem_host_retain: ["number"],
  camem_spill_folder: [text],
  camem_host_prepare: ["number", "number", "number"],
  camem_plan_submit: [{ entryBytes: PlanStep.sizeBytes }, "number", "number", "number"],
  camem_plan_poll: ["number"],
  camem_plan_cancel: ["number"],
  camem_engine_info: [],
  camem_engine_watch: ["number"],
  camem_engine_segments: ["capacity"],
  camem_engine_rules: ["capacity"],
};

const mostRequestBytes = 4 * 2 ** 20;
const headBytes = 8;

/** Bytes to send, and what the server owes for them. */
export interface Message {
  readonly bytes: Uint8Array;
  /** `reply`: one reply, or the end of the connection. `nothing`: more bytes, or the end of the connection. */
  readonly owed: "reply" | "nothing";
}

const notable = [
  0n,
  1n,
  2n,
  3n,
  255n,
  1n << 31n,
  (1n << 32n) - 1n,
  1n << 32n,
  1n << 53n,
  1n << 63n,
  (1n << 64n) - 1n,
];

/** Notable numbers more often than others. */
function someNumber(random: Random): bigint {
  if (random.oneIn(4)) return BigInt(random.below(64));
  const number = random.pick(notable);
  return random.oneIn(8) && number > 0n ? number - 1n : number;
}

function word(number: bigint): Uint8Array {
  return new Uint8Array(new BigUint64Array([BigInt.asUintN(64, number)]).buffer);
}

/** Page-locking what a machine has would starve the tests beside it: little, or more than any machine has. */
function someSize(random: Random): bigint {
  const sizes = [0n, 1n, 4096n, 1n << 20n, 1n << 50n, 1n << 63n, (1n << 64n) - 1n];
  return random.pick(sizes);
}

/** Steps that do not discard content: nothing must be lost. */
function someSteps(random: Random, count: number): Uint8Array {
  const bytes = random.bytes(count * PlanStep.sizeBytes);
  const view = new DataView(bytes.buffer);
  for (let start = 0; start < bytes.length; start += PlanStep.sizeBytes) {
    const discard = 2;
    const action = random.oneIn(8) ? random.below(2 ** 31) : random.between(1, 5);
    view.setUint32(start + PlanStep.fields.action.offset, action === discard ? 1 : action, true);
    if (random.oneIn(2)) view.setUint32(start + PlanStep.fields.state.offset, random.between(0, 4), true);
    if (random.oneIn(2)) view.setUint32(start + PlanStep.fields.device.offset, random.below(3), true);
    if (random.oneIn(2)) view.setUint32(start + PlanStep.fields.tag.offset, random.below(3), true);
  }
  return bytes;
}

function padded(bytes: Uint8Array): Uint8Array {
  const target = new Uint8Array(Math.ceil(bytes.length / 8) * 8);
  target.set(bytes);
  return target;
}

function partBytes(random: Random, call: Call, part: Part): Uint8Array {
  if (part === "number") return word(call === "camem_host_prepare" ? someSize(random) : someNumber(random));
  if (part === "capacity") return word(random.oneIn(2) ? BigInt(random.below(300)) : someNumber(random));
  const count = random.oneIn(3) ? random.magnitude(1, 2000) : random.below(5);
  const content =
    call === "camem_plan_submit" ? someSteps(random, count) : random.bytes(count * part.entryBytes);
  const claimed = random.oneIn(8) ? someNumber(random) : BigInt(count);
  return Buffer.concat([word(claimed), padded(content)]);
}

function request(call: number, content: Uint8Array, length = content.length): Uint8Array {
  const head = new Uint32Array([length, call]);
  return Buffer.concat([new Uint8Array(head.buffer), content]);
}

/** A request of the right form, with arguments that may make no sense. */
export function wellFormed(random: Random, call: Call = random.pick(servedCalls)): Message {
  const content = Buffer.concat(requests[call].map((part) => partBytes(random, call, part)));
  return { bytes: request(servedCalls.indexOf(call), content), owed: "reply" };
}

/** The same with something wrong about it. */
export function malformed(random: Random): Message {
  const { bytes } = wellFormed(random);
  const content = bytes.subarray(headBytes);
  switch (random.below(6)) {
    case 0: // an unknown call
      return { bytes: request(random.between(servedCalls.length, 2 ** 31), content), owed: "reply" };
    case 1: // another call's arguments
      return { bytes: request(random.below(servedCalls.length), content), owed: "reply" };
    case 2: // more than a request may have
      return { bytes: request(0, content, random.between(mostRequestBytes + 1, 2 ** 32 - 1)), owed: "reply" };
    case 3: // cut off
      return { bytes: bytes.subarray(0, random.below(bytes.length)), owed: "nothing" };
    case 4: {
      // arguments of any length
      const any = random.bytes(random.magnitude(1, 4096));
      return { bytes: request(random.below(servedCalls.length), any), owed: "reply" };
    }
    default: {
      // single bytes changed; a changed length may claim what does not follow
      const changed = Uint8Array.from(bytes);
      for (let count = random.between(1, 4); count > 0; count--)
        changed[random.between(headBytes - 4, changed.length - 1)] = random.below(256);
      return { bytes: changed, owed: "reply" };
    }
  }
}

/** Bytes that are nothing in particular. */
export function noise(random: Random): Message {
  const bytes = random.bytes(random.magnitude(1, 100_000));
  return { bytes, owed: "nothing" };
}
