/** The options of `loadSafetensors`, and the checks of them. */

import { fileURLToPath } from "node:url";
import { types } from "node:util";
import Type, { type Static } from "typebox";
import { CaMemAllocator } from "../allocator.ts";
import { CamemError, formatValue, messageOf } from "../errors.ts";
import {
  closedObject,
  custom,
  Flag,
  optional,
  required,
  Signal,
  Tags,
  unchecked,
} from "../options/schemas.ts";
import { validate } from "../options/validate.ts";
import { isAllocatedByLoad } from "./allocation.ts";
import { isTensor, type Tensor } from "./tensor.ts";

const LoadSafetensorsOptions = closedObject({
  /** Allocates the tensors. */
  allocator: required(
    custom<CaMemAllocator>(
      "a CaMemAllocator, such as CaMemAllocator.getInstance()",
      (value) => value instanceof CaMemAllocator,
    ),
  ),
  /** The tag of the tensors; by default `weights`. */
  tag: optional(unchecked<string>()),
  /**
   * Tags by tensor name, such as `{ "vision.*": "frozen" }`: patterns in which `*` stands for any text. The first pattern that
   * matches a name decides; other tensors get `tag`.
   */
  tags: optional(
    Type.Unsafe<Readonly<Record<string, string>>>(
      Type.Record(Type.String(), Type.String(), { description: "an object from name patterns to tags" }),
    ),
  ),
  /** The device number of the tensors; by default the allocator's. */
  device: optional(unchecked<number>()),
  /** Loads only the tensors that one of these name patterns matches, in which `*` stands for any text. */
  only: optional(
    Type.Unsafe<readonly string[]>(
      Type.Array(Type.String(), { description: "an array of patterns of tensor names" }),
    ),
  ),
  /** True to accept patterns of `tags` and `only` that match no tensor, as where files of a checkpoint are loaded one by one. */
  allowUnmatched: optional(Flag),
  /**
   * Tensors of an earlier load, to be overwritten in place instead of allocating: the reload after a sleep at level 2. The
   * checkpoint must hold exactly these names, dtypes and shapes. `tag`, `tags` and `device` are ignored then.
   */
  into: optional(
    custom<ReadonlyMap<string, Tensor>>(
      "the result of an earlier loadSafetensors",
      (value) => types.isMap(value) && [...value.values()].every(isTensor),
    ),
  ),
  /**
   * With `into`, loads only its tensors under these tags, such as the `lostTags` of a wake-up. Other tensors may sleep, and the
   * checkpoint need not hold them.
   */
  onlyTags: optional(Tags),
  /**
   * Where a sleep that offloads keeps the content; by default `host`. `host`: in page-locked host memory. `file`: in the
   * checkpoint itself, which must not change from then on; a wake-up reads the content from there, and the tensors refuse
   * writes until `markDirty`. With `into`, `file` works for tensors that an earlier load allocated.
   */
  backing: optional(
    Type.Union([Type.Literal("host"), Type.Literal("file")], { description: '"host" or "file"' }),
  ),
  /** Stops the load between two chunks. */
  signal: optional(Signal),
});

/** Options of {@link loadSafetensors}. */
export interface LoadSafetensorsOptions extends Static<typeof LoadSafetensorsOptions> {}

/** @throws CamemError `INVALID_ARGUMENT` */
export function checkOptions(options: LoadSafetensorsOptions): void {
  validate(LoadSafetensorsOptions, options, "loadSafetensors", "INVALID_ARGUMENT");
  const { into, onlyTags, backing } = options;
  if (onlyTags !== undefined && into === undefined)
    throw new CamemError(
      "INVALID_ARGUMENT",
      "onlyTags selects tensors of `into`; give into, or select by name with only",
      { property: "onlyTags" },
    );
  if (backing === "file" && into !== undefined && !isAllocatedByLoad(into))
    throw new CamemError(
      "INVALID_ARGUMENT",
      "`into` was not allocated by loadSafetensors, so other content may be in its segments; leave backing out",
      { property: "into" },
    );
}

/** @throws CamemError `INVALID_ARGUMENT` */
export function fileNameOf(path: unknown): string {
  if (typeof path === "string" && path !== "") return path;
  const given = formatValue(path instanceof URL ? path.href : path);
  try {
    if (path instanceof URL) return fileURLToPath(path);
  } catch (cause) {
    const reason = messageOf(cause);
    throw new CamemError("INVALID_ARGUMENT", `the path is ${given}: ${reason}`, { cause });
  }
  throw new CamemError("INVALID_ARGUMENT", `the path is ${given}; it must be a path or a file: URL`);
}
