import { type AllocatorOptions, CaMemAllocator } from "camem";
import { type ControllerOptions, type EngineEvent, type EngineState, SleepController } from "camem/server";
import { FakeEngine } from "../../support/fake-engine.ts";

/** A fake engine and its controller, with every event and every change of state since the controller started. */
export class ControllerFixture {
  readonly allocator: CaMemAllocator;
  readonly engine: FakeEngine;
  controller: SleepController;
  states: EngineState[] = [];
  events: EngineEvent[] = [];

  constructor(options: AllocatorOptions = {}) {
    this.allocator = CaMemAllocator.getInstance(options);
    this.engine = new FakeEngine(this.allocator);
    this.controller = this.#start({});
  }

  #start(options: ControllerOptions): SleepController {
    const controller = new SleepController(this.allocator, options);
    this.states = [];
    this.events = [];
    controller.subscribe((event) => {
      this.events.push(event);
      if (event.type === "state" && event.status.state !== event.previous)
        this.states.push(event.status.state);
    });
    return controller;
  }

  /** Replaces the controller by one with these options. */
  async restart(options: ControllerOptions): Promise<void> {
    await this.controller.close();
    this.controller = this.#start(options);
  }

  async close(): Promise<void> {
    await this.controller.close();
    await this.allocator.close();
  }

  /** Admits a request and returns its output. */
  async complete(): Promise<string> {
    using lease = await this.controller.admit();
    return await this.engine.complete(lease, "once", 8);
  }

  /** The correct result of `complete`. */
  expected(): string {
    return this.engine.expected("once", 8);
  }
}
