/** Which engines must not be awake together. */

import type { EngineConfig, GroupConfig } from "./gateway-config.ts";

export class Groups {
  readonly #groupOf: ReadonlyMap<string, GroupConfig>;
  readonly #configs: ReadonlyMap<string, EngineConfig>;
  /** False while nobody knows how much memory an engine takes. */
  readonly #isMeasured: (engine: string) => boolean;

  constructor(
    groups: readonly GroupConfig[],
    engines: readonly EngineConfig[],
    isMeasured: (engine: string) => boolean,
  ) {
    this.#groupOf = new Map(
      groups.flatMap((group) => group.engines.map((engine) => [engine, group] as const)),
    );
    this.#configs = new Map(engines.map((engine) => [engine.name, engine]));
    this.#isMeasured = isMeasured;
  }

  /** The engines that never make room. */
  get persistent(): string[] {
    return [...this.#configs.keys()].filter((engine) => this.#groupOf.get(engine)?.persistent === true);
  }

  /** True when `other` must sleep before `engine` wakes. */
  conflict(engine: string, other: string): boolean {
    const [group, otherGroup] = [this.#groupOf.get(engine), this.#groupOf.get(other)];
    if (otherGroup?.persistent === true && group !== otherGroup) return false;
    if (group !== undefined && group === otherGroup) return group.swap;
    if (group?.exclusive === true || otherGroup?.exclusive === true) return true;
    // It may need a whole device.
    return !this.#isMeasured(engine) && this.#share(engine, other);
  }

  #share(engine: string, other: string): boolean {
    const devices = this.#configs.get(other)?.devices ?? [];
    return this.#configs.get(engine)?.devices.some((device) => devices.includes(device)) === true;
  }
}
