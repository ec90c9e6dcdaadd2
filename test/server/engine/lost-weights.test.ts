/** Weights are lost when their content was discarded, whatever the level and whatever else failed. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { codeOf, failureOf, MiB, onEmulator, setFaults } from "../../support/device.ts";
import { ControllerFixture } from "./controller-fixture.ts";

let fixture: ControllerFixture;

beforeEach(() => {
  fixture = new ControllerFixture();
});

afterEach(() => fixture.close());

describe("policies", () => {
  test("admit() serves after level 2 when the policy of the weights keeps them", async () => {
    fixture.allocator.defineTag("weights", { 2: "offload" });
    await fixture.restart({ whenAsleep: "wake" });
    await fixture.controller.sleep({ level: 2, reason: "idle" });
    await fixture.controller.confirmWeights();
    expect(await fixture.controller.sleep({ level: 1, reason: "idle" })).toMatchObject({
      alreadySleeping: true,
      level: 2,
    });
    expect(await fixture.complete()).toBe(fixture.expected());
  });

  test("admit() refuses after level 1 when the policy of the weights discards them", async () => {
    fixture.allocator.defineTag("weights", { 1: "discard" });
    await fixture.restart({ whenAsleep: "wake" });
    await fixture.controller.sleep({ reason: "idle" });
    expect(await codeOf(() => fixture.controller.admit())).toBe("ENGINE_UNAVAILABLE");
    expect(await fixture.controller.sleep({ reason: "idle" })).toMatchObject({ alreadySleeping: true });
    expect(await codeOf(() => fixture.controller.confirmWeights())).toBe("STATE_CONFLICT");
    await fixture.controller.wakeUp();
    expect(fixture.controller.status).toMatchObject({ state: "awaiting-weights", awaitingTags: ["weights"] });
  });

  test("sleep({ level: 1 }) throws STATE_CONFLICT only for the weights that level 2 discarded", async () => {
    const kept = fixture.allocator.malloc(1, { tag: "vision" });
    fixture.allocator.defineTag("vision", { 1: "offload", 2: "offload" });
    await fixture.restart({ weightTags: ["weights", "vision"] });
    await fixture.controller.sleep({ level: 2 });
    expect((await failureOf(() => fixture.controller.sleep())).message).toStartWith("weights: asleep");
    expect(await fixture.controller.sleep({ tags: ["vision"] })).toMatchObject({ alreadySleeping: true });
    await fixture.controller.wakeUp();
    expect(fixture.controller.status.awaitingTags).toEqual(["weights"]);
    expect(kept.state).toBe("mapped");
  });
});

describe("refusals", () => {
  const messageOfAdmit = async () => (await failureOf(() => fixture.controller.admit())).message;

  test("admit() names confirmWeights() and reload when nothing loads lost weights", async () => {
    await fixture.controller.sleep({ level: 2 });
    expect(await messageOfAdmit()).toContain("call confirmWeights(), or set the option reload");
    await fixture.controller.wakeUp();
    expect(await messageOfAdmit()).toContain("call confirmWeights(), or set the option reload");
    expect(await messageOfAdmit()).not.toContain("try again later");
    fixture.engine.load();
    await fixture.controller.confirmWeights();
    await fixture.controller.sleep();
    expect(await messageOfAdmit()).toContain("set whenAsleep and whenOperatorAsleep");
  });

  test.if(onEmulator)("admit() names wakeUp() when a failed reload could not be undone", async () => {
    await fixture.restart({
      reload: () => {
        setFaults("aclrtSynchronizeDeviceWithTimeout:1+=507899");
        throw new RangeError("no checkpoint");
      },
    });
    await fixture.controller.sleep({ level: 2 });
    expect(await codeOf(() => fixture.controller.wakeUp())).toBe("HOOK_FAILED");
    setFaults("");
    expect(fixture.controller.status.state).toBe("awaiting-weights");
    expect(await messageOfAdmit()).toContain("call wakeUp(), which calls reload");
  });
});

describe("failures to give memory back", () => {
  test.if(onEmulator)("wakeUp() reloads and admits requests when only giving back failed", async () => {
    fixture.allocator.malloc(2 * MiB, { tag: "buffers" });
    let reloads = 0;
    const reload = () => {
      reloads++;
      fixture.engine.load();
    };
    await fixture.restart({ whenAsleep: "wake", reload });
    for (const wake of [() => fixture.controller.wakeUp(), () => fixture.complete()]) {
      await fixture.controller.sleep({ level: 2, reason: "idle" });
      setFaults("aclrtFreeHost:1+=500000");
      const error = await Promise.resolve(wake()).catch((failure) => failure);
      setFaults("");
      if (typeof error === "string") expect(error).toBe(fixture.expected());
      else expect(error).toMatchObject({ code: "ACL_CALL_FAILED", transitionComplete: true });
      expect(fixture.controller.status).toMatchObject({ state: "awake", awaitingTags: [] });
      expect(await fixture.complete()).toBe(fixture.expected());
    }
    expect(reloads).toBe(2);
  });
});
