import type { CaMemAllocator } from "../../allocator.ts";
import { CamemError, formatValue } from "../../errors.ts";
import type { TagUsage } from "../../memory/usage.ts";
import { persistentTag, recordByTag } from "../../policy/tag-names.ts";
import { presetPolicies } from "../../policy/tag-policies.ts";
import type { WakeOptions } from "../../transition/options.ts";
import type { TransitionPlan } from "../../transition/preflight.ts";
import type { WakeReport } from "../../transition/reports.ts";
import { type OrderedMemory, withTags } from "../../transition/wake-order.ts";

/** The part of the allocator that a controller uses. */
export type ControlledAllocator = Pick<
  CaMemAllocator,
  "sleep" | "plan" | "usage" | "memGetInfo" | "defineTag" | "device"
> &
  Partial<Pick<CaMemAllocator, "hostUsage">> & {
    /** As {@link CaMemAllocator.wakeUp}; another allocator refuses an order. */
    wakeUp(options?: WakeOptions): Promise<WakeReport>;
  };

/** Names that clients send among tags for things other than memory: vLLM's scheduler, and SGLang's captured graphs. */
const memorylessNames = ["scheduling", "cuda_graph"];

function unknownTag(name: string, known: readonly string[]): CamemError {
  const list = known.join(", ") || "none";
  return new CamemError("UNKNOWN_TAG", `this engine has no tag ${formatValue(name)}; its tags are ${list}`);
}

/** The engine's own names of its tags, and the allocator's tags behind them. */
export class EngineTags {
  readonly #allocator: ControlledAllocator;
  /** Undefined when every tag of the allocator belongs to the engine, under its own name. */
  readonly #tagOf: ReadonlyMap<string, string> | undefined;
  readonly #nameOf: ReadonlyMap<string, string>;
  #hasWarned = false;

  constructor(allocator: ControlledAllocator, tags: Readonly<Record<string, string>> | undefined) {
    this.#allocator = allocator;
    this.#tagOf = tags && new Map(Object.entries(tags));
    this.#nameOf = new Map(Object.entries(tags ?? {}).map(([name, tag]) => [tag, name]));
    for (const [name, tag] of this.#tagOf ?? [])
      if (tag !== persistentTag)
        allocator.defineTag(tag, tag === name ? {} : (presetPolicies.get(name) ?? {}));
  }

  /** `names` without those that stand for no memory in this engine. */
  withMemory(names: readonly string[] | undefined): string[] | undefined {
    return names?.filter((name) => !memorylessNames.includes(name) || this.#hasMemory(name));
  }

  #hasMemory(name: string): boolean {
    return this.#tagOf?.has(name) ?? Object.hasOwn(this.#allocator.usage(), name);
  }

  /** The allocator's tags for `names`; undefined means all. */
  tagsOf(names: readonly string[] | undefined): string[] | undefined {
    if (this.#tagOf === undefined) return names && [...names];
    return [...(names ?? this.#tagOf.keys())].map((name) => {
      const tag = this.#tagOf?.get(name);
      if (tag === undefined) throw unknownTag(name, [...(this.#tagOf?.keys() ?? [])]);
      return tag;
    });
  }

  /**
   * The same memory by the allocator's tags.
   *
   * @throws CamemError `UNKNOWN_TAG`
   */
  memoryOf(memory: OrderedMemory): OrderedMemory {
    return withTags(memory, (name) => (name === persistentTag ? name : (this.tagsOf([name])?.[0] ?? name)));
  }

  /** @throws CamemError `UNKNOWN_TAG`, which lists the engine's tags; `INVALID_TAG` */
  assertKnown(names: readonly string[]): void {
    this.tagsOf(names);
    if (this.#tagOf !== undefined) return;
    for (const name of names) {
      try {
        this.#allocator.plan("wake", { tags: [name] });
      } catch (error) {
        const isUnknown = error instanceof CamemError && error.code === "UNKNOWN_TAG";
        throw isUnknown ? unknownTag(name, Object.keys(this.usage())) : error;
      }
    }
  }

  /** Warns once when none of the engine's own tags has memory: one may be misspelt. */
  warnIfEmpty(engine: string): void {
    if (this.#tagOf === undefined || this.#hasWarned || Object.keys(this.usage()).length > 0) return;
    this.#hasWarned = true;
    const inUse = Object.keys(this.#allocator.usage()).join(", ") || "none";
    process.emitWarning(
      `the sleep of the engine ${engine} frees nothing: its tags ${[...this.#tagOf.values()].join(", ")} have no memory; tags with memory: ${inUse}`,
    );
  }

  /** The engine's own name of an allocator's tag; undefined for another engine's tag. */
  nameOf(tag: string): string | undefined {
    return this.#tagOf === undefined ? tag : this.#nameOf.get(tag);
  }

  usage(): Record<string, TagUsage> {
    return this.#byName(this.#allocator.usage());
  }

  /** The same plan by the engine's own names. */
  named(plan: TransitionPlan): TransitionPlan {
    return { ...plan, tags: this.#byName(plan.tags) };
  }

  #byName<T>(byTag: Readonly<Record<string, T>>): Record<string, T> {
    return recordByTag(
      Object.entries(byTag).flatMap(([tag, value]) => {
        const name = this.nameOf(tag);
        return name === undefined ? [] : [[name, value] as const];
      }),
    );
  }
}
