import { type AllocatorOptions, CaMemAllocator, type DeviceBuffer } from "camem";
import { type ControllerOptions, ModelPool, type ModelPoolOptions, SleepController } from "camem/server";
import { MiB, pattern, wholeGranules } from "../../support/device.ts";
import { FakeClock } from "../../support/fake-clock.ts";

export interface EngineSpec {
  readonly name: string;
  readonly mib: number;
  readonly device?: number;
  /** By default true. */
  readonly awake?: boolean;
  readonly options?: ControllerOptions;
}

interface FixtureOptions {
  /** Memory of each device that is left free once the engines are as specified. */
  readonly freeMiB?: readonly number[];
  readonly pool?: ModelPoolOptions;
  readonly allocator?: AllocatorOptions;
}

/** Engines with weights only, in a pool, on devices with a known amount of free memory. */
export class PoolFixture {
  readonly allocator: CaMemAllocator;
  readonly engines: Record<string, SleepController> = {};
  readonly clock = new FakeClock();
  readonly pool: ModelPool;
  readonly #weights: Record<string, DeviceBuffer> = {};

  static async start(specs: readonly EngineSpec[], options: FixtureOptions = {}): Promise<PoolFixture> {
    const allocator = CaMemAllocator.getInstance(options.allocator);
    const engines = [];
    const weights: Record<string, DeviceBuffer> = {};
    for (const { name, mib, device = 0, awake = true, options: engineOptions } of specs) {
      const tag = `${name}/weights`;
      const buffer = allocator.malloc(mib * MiB, { tag, device });
      weights[name] = buffer;
      buffer.write(pattern(buffer.sizeBytes, mib));
      const engine = new SleepController(allocator, {
        name,
        tags: { weights: tag },
        devices: [device],
        ...engineOptions,
      });
      engines.push(engine);
      if (!awake) await engine.sleep({ reason: "pool" });
    }
    for (const [device, freeMiB] of (options.freeMiB ?? [0]).entries()) {
      const takenBytes = wholeGranules(allocator.memGetInfo(device).freeBytes) - freeMiB * MiB;
      if (takenBytes > 0) allocator.malloc(takenBytes, { tag: "sleep_persistent", device });
    }
    return new PoolFixture(allocator, engines, weights, options.pool);
  }

  private constructor(
    allocator: CaMemAllocator,
    engines: readonly SleepController[],
    weights: Record<string, DeviceBuffer>,
    options: ModelPoolOptions = {},
  ) {
    this.allocator = allocator;
    for (const engine of engines) this.engines[engine.name] = engine;
    this.#weights = weights;
    this.pool = new ModelPool(engines, { clock: this.clock, minimumResidency: 0, ...options });
    this.clock.advance(1000);
  }

  engine(name: string): SleepController {
    const engine = this.engines[name];
    if (engine === undefined) throw new Error(`there is no engine ${name}`);
    return engine;
  }

  /** Admits and ends a request. */
  async request(name: string): Promise<void> {
    (await this.pool.admit(name)).release();
    this.clock.advance(10);
  }

  /** The names of the engines that are awake. */
  get awake(): string[] {
    return Object.keys(this.engines).filter((name) => this.engine(name).status.state === "awake");
  }

  /** True when the weights of an engine have their content. */
  isIntact(name: string): boolean {
    const buffer = this.#weights[name];
    if (buffer === undefined) throw new Error(`there is no engine ${name}`);
    return Buffer.from(pattern(buffer.sizeBytes, buffer.sizeBytes / MiB)).equals(buffer.read());
  }

  async close(): Promise<void> {
    await this.pool.close();
    for (const engine of Object.values(this.engines)) await engine.close();
    await this.allocator.close();
  }
}
