import type { CaMemAllocator } from "../../allocator.ts";
import { CamemError, formatValue } from "../../errors.ts";
import type { TagUsage } from "../../memory/usage.ts";
import { persistentTag, recordByTag } from "../../policy/tag-names.ts";
import { presetPolicies } from "../../policy/tag-policies.ts";
import type { TransitionPlan } from "../../transition/preflight.ts";

/** The part of the allocator that a controller uses. */
export type ControlledAllocator = Pick<
  CaMemAllocator,
  "sleep" | "wakeUp" | "plan" | "usage" | "memGetInfo" | "defineTag" | "device"
>;

/** Names that clients send among tags for things other than memory: vLLM's scheduler, and SGLang's captured graphs. */
const memorylessNames = ["scheduling", "cuda_graph"];

/** The engine's own names of its tags, and the allocator's tags behind them. */
export class EngineTags {
  readonly #allocator: ControlledAllocator;
  /** Undefined when every tag of the allocator belongs to the engine, under its own name. */
  readonly #tagOf: ReadonlyMap<string, string> | undefined;
  readonly #nameOf: ReadonlyMap<string, string>;

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
      if (tag !== undefined) return tag;
      const known = [...(this.#tagOf?.keys() ?? [])].join(", ");
      throw new CamemError("UNKNOWN_TAG", `this engine has no tag ${formatValue(name)}; it has ${known}`);
    });
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
