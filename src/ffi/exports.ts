/** The exports of the shim as functions, whichever JavaScript runtime calls them. */

import type { symbols } from "./symbols.gen.ts";

/** A pointer is passed as the array that it points to. */
interface Arguments {
  readonly ptr: Uint8Array | Uint32Array | null;
  readonly u64: number;
  readonly u32: number;
  readonly i32: number;
}

type ArgumentsOf<Kinds extends readonly (keyof Arguments)[]> = {
  -readonly [Index in keyof Kinds]: Arguments[Kinds[Index]];
};

/** Every export of the shim. Each returns a `Status`. */
export type Exports = {
  readonly [Name in keyof typeof symbols]: (...values: ArgumentsOf<(typeof symbols)[Name]["args"]>) => number;
};

/** The exports that work on the shim of this process and on that of an engine in another process. */
export type SharedExports = Pick<
  Exports,
  | "camem_runtime_info"
  | "camem_memory_info"
  | "camem_tag_intern"
  | "camem_tag_find"
  | "camem_tag_name"
  | "camem_tag_policy"
  | "camem_tag_policies"
  | "camem_tag_set_policy"
  | "camem_tag_set_immutable"
  | "camem_segment_info"
  | "camem_snapshot"
  | "camem_segment_groups"
  | "camem_usage"
  | "camem_host_info"
  | "camem_host_retain"
  | "camem_spill_folder"
  | "camem_host_prepare"
  | "camem_plan_submit"
  | "camem_plan_poll"
  | "camem_plan_cancel"
>;
