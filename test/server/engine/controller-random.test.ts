/**
 * Random calls of a controller against a naive model: which calls are refused, what the status says, which requests are served,
 * and with which content. `CAMEM_TEST_CONTROLLER_SEEDS` is the number of sequences, `CAMEM_TEST_CONTROLLER_SEED` the first seed.
 */

import { afterEach, expect, test } from "bun:test";
import { CamemError, type DeviceBuffer } from "camem";
import type { InFlightMode } from "camem/server";
import { Random } from "../../fuzz/random.ts";
import { onEmulator, pattern, setFaults } from "../../support/device.ts";
import { ControllerFixture } from "./controller-fixture.ts";
import { ControllerModel, type Level, type Reason, type TagName, tagNames } from "./controller-model.ts";

const seeds = Number(process.env["CAMEM_TEST_CONTROLLER_SEEDS"] ?? 100);
const firstSeed = Number(process.env["CAMEM_TEST_CONTROLLER_SEED"] ?? 1);
const steps = 30;
const bufferBytes = 100_000;
/** So long that several calls fall into one request. */
const streamLength = 40;
const faults = ["aclrtMemcpyAsync", "aclrtMapMem", "aclrtMallocPhysical", "aclrtFreePhysical"];

let run: Run | undefined;

afterEach(async () => {
  setFaults("");
  await run?.fixture.close();
  run = undefined;
});

/** One sequence: the controller and its model side by side. */
class Run {
  readonly fixture = new ControllerFixture();
  readonly model: ControllerModel;
  readonly #random: Random;
  readonly #kept: readonly DeviceBuffer[];
  readonly #reloads: boolean;
  readonly #wakes: boolean;
  readonly #log: string[] = [];
  /** A request in flight beside the calls. */
  #stream: { readonly answer: Promise<unknown>; mayAbort: boolean } | undefined;

  constructor(seed: number) {
    this.#random = new Random(seed, 0);
    this.#reloads = this.#random.oneIn(2);
    this.#wakes = this.#random.oneIn(2);
    this.model = new ControllerModel({ reloads: this.#reloads, wakes: this.#wakes });
    const { allocator } = this.fixture;
    allocator.defineTag("adapters", { 1: "offload", 2: "discard" });
    this.#kept = ["buffers", "adapters"].map((tag) => allocator.malloc(bufferBytes, { tag }));
    for (const buffer of this.#kept) buffer.write(pattern(bufferBytes, 3));
  }

  async start(): Promise<void> {
    await this.fixture.restart({
      reload: this.#reloads ? () => this.fixture.engine.load() : undefined,
      whenAsleep: this.#wakes ? "wake" : "refuse",
      whenOperatorAsleep: "refuse",
      whenPaused: "refuse",
    });
  }

  async step(): Promise<void> {
    const events = {
      sleep: 4,
      wakeUp: 4,
      pause: 1,
      resume: 2,
      confirm: 2,
      request: 4,
      stream: 4,
      overlap: 2,
    };
    const names = Object.entries(events).flatMap(([name, weight]) => Array<string>(weight).fill(name));
    await this.#do(this.#random.pick(names));
    this.#compare();
  }

  /** Ends whatever holds requests, and expects one to be served. */
  async finish(): Promise<void> {
    await this.#wake(tagNames, {});
    await this.#do("resume");
    await this.#do("wakeUp all");
    await this.#do("confirm");
    this.#compare();
    expect(this.model.state, this.#story()).toBe("awake");
    await this.#do("request");
    await this.#endStream();
    expect(this.#kept[0]?.read(), this.#story()).toEqual(pattern(bufferBytes, 3));
  }

  #do(event: string): Promise<unknown> {
    const { fixture, model } = this;
    if (event === "sleep") return this.#sleep();
    if (event === "wakeUp") return this.#wake(this.#someTags(), this.#options());
    if (event === "wakeUp all") return this.#wake(tagNames, {});
    if (event === "request") return this.#request();
    if (event === "stream") return this.#startStream();
    // The second call is made while the first runs, and takes its turn after it.
    if (event === "overlap") return Promise.all([this.#sleep(false), this.#wake(this.#someTags(), {})]);
    this.#log.push(event);
    if (event === "pause")
      return this.#expect(fixture.controller.pause({ mode: this.#mode() }), undefined, () => this.#pause());
    if (event === "resume") return this.#expect(fixture.controller.resume(), undefined, () => model.resume());
    if (!model.asleep.has("weights")) fixture.engine.load();
    const refusal = model.refusalOfConfirmation();
    return this.#expect(fixture.controller.confirmWeights(), refusal, () => model.confirmWeights());
  }

  #pause(): void {
    this.model.paused = true;
  }

  #sleep(mayFail = true): Promise<void> {
    const level = this.#random.pick<Level>([0, 1, 1, 2]);
    const reason = this.#random.pick<Reason>(["operator", "idle"]);
    const tags = this.#random.oneIn(2) ? tagNames : this.#someTags();
    const options = mayFail ? this.#options() : {};
    const mode = this.#mode();
    this.#log.push(
      `sleep ${level} ${reason} ${mode} ${tags} ${options.fault ?? ""} ${options.signal?.aborted ?? ""}`,
    );
    const refusal = this.model.refusalOfSleep(level, tags);
    const call = this.#faulted(options, () =>
      this.fixture.controller.sleep({ level, reason, mode, tags: this.#named(tags), signal: options.signal }),
    );
    return this.#expect(call, refusal, () => this.model.fallAsleep(level, tags, reason));
  }

  #wake(tags: readonly TagName[], options: { fault?: string; signal?: AbortSignal }): Promise<void> {
    this.#log.push(`wake ${tags} ${options.fault ?? ""} ${options.signal?.aborted ?? ""}`);
    const call = this.#faulted(options, () =>
      this.fixture.controller.wakeUp({ tags: this.#named(tags), signal: options.signal }),
    );
    return this.#expect(call, undefined, () => this.model.wakeUp(tags));
  }

  async #request(): Promise<void> {
    this.#log.push("request");
    const isServed = this.model.request();
    const answer = await this.fixture.complete().catch((error: unknown) => error);
    if (isServed) expect(answer, this.#story()).toBe(this.fixture.expected());
    else expect(answer, this.#story()).toMatchObject({ code: "ENGINE_UNAVAILABLE" });
  }

  async #startStream(): Promise<void> {
    if (this.model.state !== "awake") return;
    await this.#endStream();
    this.#log.push("stream");
    const { controller, engine } = this.fixture;
    const lease = await controller.admit();
    const answer = engine
      .complete(lease, "stream", streamLength)
      .catch((error: unknown) => error)
      .finally(() => lease.release());
    this.#stream = { answer, mayAbort: false };
  }

  /** A request in flight is complete, whatever slept beside it, unless a call has aborted it. */
  async #endStream(): Promise<void> {
    if (this.#stream === undefined) return;
    const { answer, mayAbort } = this.#stream;
    this.#stream = undefined;
    const text = await answer;
    if (mayAbort && text instanceof CamemError) expect(text.code, this.#story()).toBe("ABORTED");
    else expect(text, this.#story()).toBe(this.fixture.engine.expected("stream", streamLength));
  }

  #mode(): InFlightMode {
    const mode = this.#random.pick<InFlightMode>(["abort", "wait", "keep", "keep"]);
    if (mode === "abort" && this.#stream !== undefined) this.#stream.mayAbort = true;
    return mode;
  }

  /** Changes the model if the call has taken effect. Without a fault or an aborted signal, it must have. */
  async #expect(call: Promise<unknown>, refusal: string | undefined, change: () => void): Promise<void> {
    const story = this.#story();
    const error = await call.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (error === undefined) {
      expect(refusal, story).toBeUndefined();
      return change();
    }
    expect(error, story).toBeInstanceOf(CamemError);
    if (!(error instanceof CamemError)) return;
    const allowed = [refusal, "ACL_CALL_FAILED", "OUT_OF_DEVICE_MEMORY", "ABORTED"];
    expect(allowed, `${story}: ${error.message}`).toContain(error.code);
    if (error.code === "ABORTED" || error.code === refusal) expect(error.transitionComplete).toBe(false);
    if (error.transitionComplete) change();
  }

  async #faulted<Result>({ fault }: { fault?: string }, call: () => Promise<Result>): Promise<Result> {
    if (fault !== undefined) setFaults(`${fault}:1=507899`);
    try {
      return await call();
    } finally {
      if (fault !== undefined) setFaults("");
    }
  }

  #options(): { fault?: string; signal?: AbortSignal } {
    if (this.#random.oneIn(8)) return { signal: AbortSignal.abort() };
    return onEmulator && this.#random.oneIn(4) ? { fault: this.#random.pick(faults) } : {};
  }

  /** At least one tag. */
  #someTags(): readonly TagName[] {
    const some = this.#random.some(tagNames);
    return some.length > 0 ? some : [this.#random.pick(tagNames)];
  }

  /** Leaves the option out where it has no effect, half of the time. */
  #named(tags: readonly TagName[]): readonly TagName[] | undefined {
    return tags.length === tagNames.length && this.#random.oneIn(2) ? undefined : tags;
  }

  #compare(): void {
    const { state, level, reason, sleepingTags, awaitingTags, paused } = this.fixture.controller.status;
    const sorted = [...sleepingTags].sort();
    expect(
      { state, level, reason, sleepingTags: sorted, awaitingTags, paused } as unknown,
      this.#story(),
    ).toEqual(this.model.status);
  }

  #story(): string {
    return this.#log.join("\n");
  }
}

test("controller does what its model says in random sequences of calls", async () => {
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    run = new Run(seed);
    await run.start();
    try {
      for (let step = 0; step < steps; step++) await run.step();
      await run.finish();
    } catch (error) {
      throw new Error(`seed ${seed} diverged`, { cause: error });
    }
    await run.fixture.close();
    run = undefined;
  }
}, 3_600_000);
