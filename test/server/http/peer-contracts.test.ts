/** What the clients of vLLM, SGLang and verl send, and the answers that they expect: one table. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EngineState, HandlerOptions, ReloadContext } from "camem/server";
import manifest from "../../../package.json" with { type: "json" };
import { HandlerFixture } from "./handler-fixture.ts";

let fixture: HandlerFixture;
let calls: unknown[];

const reload = ({ modelPath }: ReloadContext) => {
  calls.push(["reload", modelPath]);
  if (modelPath === "missing") throw new Error("there is no such checkpoint");
  fixture.engine.load();
};

const hooks: Partial<HandlerOptions> = {
  health: true,
  resetPrefixCache: ({ model }) => calls.push(["reset", model]),
  abortRequest: ({ requestId }) => calls.push(["abort", requestId]),
  generateForHealth: async ({ lease }) =>
    calls.push(["generate", await fixture.engine.complete(lease, "a", 1)]),
  serverInfo: () => ({ tp_size: 1 }),
};

beforeEach(async () => {
  fixture = new HandlerFixture();
  calls = [];
  await fixture.restart({ reload }, hooks);
});

afterEach(() => fixture.close());

interface Contract {
  /** Which client sends it. */
  readonly client: string;
  readonly request: readonly [method: "GET" | "POST", path: string, body?: unknown];
  readonly status: number;
  /** The JSON of the answer; a text for the whole body; undefined for anything. */
  readonly answer?: unknown;
  /** The engine's state afterwards; by default awake. */
  readonly state?: EngineState;
  readonly calls?: readonly unknown[];
  /** What the client has sent before. */
  readonly after?: readonly (readonly [path: string, body?: unknown])[];
}

const ok = { status: "ok", message: expect.any(String) };
const error = (code: number, reason: string, param: string | null = null) => ({
  error: { message: expect.any(String), type: expect.any(String), param, code, reason },
});

// biome-ignore format: a table
const contracts: readonly Contract[] = [
  // vLLM: sleep mode
  { client: "vLLM", request: ["POST", "/sleep"], status: 200, answer: { status: "sleeping", level: 1 }, state: "asleep" },
  { client: "vLLM", request: ["POST", "/sleep?level=2&mode=wait"], status: 200, answer: { status: "sleeping", level: 2 }, state: "asleep" },
  { client: "vLLM", request: ["POST", "/sleep?level=0"], status: 200, answer: { status: "sleeping", level: 0 }, state: "paused" },
  { client: "vLLM", request: ["POST", "/sleep?mode=keep&tags=weights&tags=kv_cache"], status: 200, answer: { status: "sleeping", level: 1 }, state: "asleep" },
  { client: "vLLM #57810", request: ["POST", "/sleep?level=1&offload_tags=weights&offload_tags=kv_cache"], status: 200, answer: { status: "sleeping", level: 1 }, state: "asleep" },
  { client: "vLLM #57810", request: ["POST", "/sleep?offload_tags=kv_cache"], status: 200, answer: { status: "sleeping", level: 2 }, state: "asleep" },
  { client: "kvcached", request: ["POST", "/sleep", { level: "1" }], status: 200, answer: { status: "sleeping", level: 1 }, state: "asleep" },
  { client: "llama-swap", request: ["POST", "/sleep", { level: 2 }], status: 200, answer: { status: "sleeping", level: 2 }, state: "asleep" },
  { client: "vLLM", request: ["POST", "/wake_up"], after: [["/sleep"]], status: 200, answer: { status: "awake", tags: null } },
  { client: "vLLM", request: ["POST", "/wake_up?tags=weights"], after: [["/sleep"]], status: 200, answer: { status: "sleeping", tags: ["weights"] }, state: "asleep" },
  { client: "vLLM", request: ["POST", "/wake_up?tags=weights&tags=kv_cache"], after: [["/sleep"]], status: 200, answer: { status: "awake", tags: ["weights", "kv_cache"] } },
  { client: "production-stack", request: ["GET", "/is_sleeping"], after: [["/sleep"]], status: 200, answer: { is_sleeping: true }, state: "asleep" },
  { client: "production-stack", request: ["GET", "/is_sleeping"], status: 200, answer: { is_sleeping: false } },
  { client: "vLLM", request: ["POST", "/sleep?mode=kill"], status: 400, answer: error(400, "INVALID_ARGUMENT", "query.mode") },
  { client: "vLLM", request: ["POST", "/sleep?level=3"], status: 400, answer: error(400, "UNKNOWN_LEVEL", "query.level") },
  { client: "Kubernetes", request: ["GET", "/health"], after: [["/sleep?level=2"]], status: 200, answer: "", state: "asleep" },
  // vLLM: around a sleep
  { client: "vLLM #44890", request: ["POST", "/release_kv_cache_memory"], status: 200, answer: { status: "kv_cache_released" }, state: "asleep" },
  { client: "vLLM #44890", request: ["POST", "/wake_up"], after: [["/pause?mode=keep"], ["/release_kv_cache_memory"]], status: 200, answer: { status: "awake", tags: null }, state: "paused" },
  { client: "vLLM", request: ["POST", "/collective_rpc", { method: "reload_weights" }], after: [["/sleep?level=2"], ["/wake_up?tags=weights"]], status: 200, answer: { results: [null] }, state: "asleep", calls: [["reload", undefined], ["reload", undefined]] },
  { client: "vLLM", request: ["POST", "/collective_rpc", { method: "reload_weights", args: [], kwargs: { weights_path: "/new" }, timeout: 60 }], status: 200, answer: { results: [null] }, calls: [["reload", "/new"]] },
  { client: "vLLM", request: ["POST", "/collective_rpc", { method: "reload_weights" }], after: [["/sleep"]], status: 409, answer: error(409, "STATE_CONFLICT"), state: "asleep" },
  { client: "vLLM", request: ["POST", "/collective_rpc", { method: "save_sharded_state" }], status: 501, answer: error(501, "NOT_SUPPORTED", "body.method") },
  { client: "vLLM", request: ["POST", "/collective_rpc", {}], status: 400, answer: error(400, "INVALID_ARGUMENT", "body.method") },
  { client: "production-stack #953", request: ["POST", "/reset_prefix_cache"], status: 200, answer: "", calls: [["reset", "default"]] },
  { client: "vLLM", request: ["POST", "/reset_prefix_cache?reset_running_requests=false&reset_external=False"], status: 200, answer: "", calls: [["reset", "default"]] },
  { client: "vLLM", request: ["POST", "/pause?mode=keep&clear_cache=false"], status: 200, answer: { status: "paused" }, state: "paused" },
  { client: "vLLM", request: ["POST", "/resume"], after: [["/pause"]], status: 200, answer: { status: "resumed" } },
  { client: "vLLM", request: ["GET", "/is_paused"], after: [["/pause"]], status: 200, answer: { is_paused: true }, state: "paused" },
  { client: "TRL", request: ["GET", "/get_world_size"], status: 200, answer: { world_size: 1 } },
  { client: "vLLM", request: ["GET", "/get_world_size?include_dp=false"], status: 200, answer: { world_size: 1 } },
  { client: "vLLM", request: ["GET", "/load"], status: 200, answer: { server_load: 0 } },
  { client: "vLLM", request: ["GET", "/version"], status: 200, answer: { version: manifest.version } },
  { client: "vLLM", request: ["GET", "/server_info?config_format=json"], status: 200, answer: { version: manifest.version, tp_size: 1, engines: [expect.objectContaining({ engine: "default", state: "awake" })] } },
  { client: "SageMaker", request: ["GET", "/ping"], status: 200, answer: "" },
  { client: "SageMaker", request: ["POST", "/ping"], status: 200, answer: "" },
  // SGLang, and slime and verl, which drive it
  { client: "SGLang", request: ["POST", "/release_memory_occupation", {}], status: 200, answer: null, state: "asleep" },
  { client: "SGLang", request: ["GET", "/release_memory_occupation"], status: 200, answer: null, state: "asleep" },
  { client: "slime #354", request: ["POST", "/release_memory_occupation", { tags: ["kv_cache", "cuda_graph"] }], status: 200, answer: null, state: "asleep" },
  { client: "verl", request: ["POST", "/resume_memory_occupation", { tags: ["weights"] }], after: [["/release_memory_occupation"]], status: 200, answer: null, state: "asleep" },
  { client: "verl", request: ["POST", "/resume_memory_occupation", { tags: ["kv_cache"] }], after: [["/release_memory_occupation", { tags: ["kv_cache"] }]], status: 200, answer: null },
  { client: "verl", request: ["GET", "/flush_cache"], status: 200, answer: expect.stringContaining("flushed"), calls: [["reset", "default"]] },
  { client: "slime", request: ["POST", "/flush_cache"], status: 200, answer: expect.stringContaining("flushed"), calls: [["reset", "default"]] },
  { client: "verl", request: ["GET", "/health_generate"], status: 200, answer: "", calls: [["generate", expect.any(String)]] },
  { client: "verl", request: ["GET", "/health_generate"], after: [["/sleep"]], status: 503, answer: error(503, "ENGINE_UNAVAILABLE"), state: "asleep" },
  { client: "slime", request: ["POST", "/pause_generation", {}], status: 200, answer: ok, state: "paused" },
  { client: "SGLang", request: ["POST", "/pause_generation", { mode: "retract" }], status: 200, answer: ok, state: "paused" },
  { client: "SGLang", request: ["POST", "/pause_generation", { mode: "in_place" }], status: 200, answer: ok, state: "paused" },
  { client: "SGLang", request: ["POST", "/pause_generation", { mode: "keep" }], status: 400, answer: error(400, "INVALID_ARGUMENT", "body.mode") },
  { client: "slime", request: ["POST", "/continue_generation", {}], after: [["/pause_generation", {}]], status: 200, answer: ok },
  { client: "SGLang", request: ["POST", "/continue_generation", { torch_empty_cache: true }], after: [["/pause_generation", {}]], status: 200, answer: ok },
  { client: "kvcached", request: ["POST", "/update_weights_from_disk", { model_path: "/model" }], after: [["/release_memory_occupation"], ["/resume_memory_occupation"]], status: 200, answer: { success: true, message: expect.any(String), num_paused_requests: 0 }, calls: [["reload", "/model"], ["reset", "default"]] },
  { client: "SGLang", request: ["POST", "/update_weights_from_disk", { model_path: "/model", load_format: null, abort_all_requests: false, weight_version: "2", flush_cache: false, torch_empty_cache: false }], status: 200, answer: expect.objectContaining({ success: true }), calls: [["reload", "/model"]] },
  { client: "SGLang", request: ["POST", "/update_weights_from_disk", { model_path: "missing" }], status: 500, answer: { success: false, message: expect.any(String), ...error(500, "HOOK_FAILED") }, state: "awaiting-weights", calls: [["reload", "missing"]] },
  { client: "SGLang", request: ["POST", "/update_weights_from_disk", {}], status: 400, answer: { success: false, message: expect.any(String), ...error(400, "INVALID_ARGUMENT", "body.model_path") } },
  { client: "SGLang", request: ["POST", "/update_weights_from_disk", { model_path: "/model", load_format: "flash_rl" }], status: 400, answer: { success: false, message: expect.any(String), ...error(400, "INVALID_ARGUMENT", "body.load_format") } },
  { client: "slime", request: ["POST", "/abort_request", { abort_all: true }], status: 200, answer: "" },
  { client: "SGLang", request: ["POST", "/abort_request", { rid: "r-1", abort_all: false }], status: 200, answer: "", calls: [["abort", "r-1"]] },
  { client: "SGLang", request: ["POST", "/abort_request", { rid: "" }], status: 400, answer: error(400, "INVALID_ARGUMENT", "body.rid") },
];

const nameOf = ({ client, request: [method, path, body], after = [] }: Contract) =>
  [
    client,
    method,
    path,
    body && JSON.stringify(body),
    after.length > 0 && `after ${after.map(([one]) => one)}`,
  ]
    .filter(Boolean)
    .join(" ");

test.each(contracts.map((contract) => [nameOf(contract), contract] as const))(
  "handler answers as the client expects: %s",
  async (_name, {
    request: [method, path, body],
    status,
    answer,
    state = "awake",
    after = [],
    ...expected
  }) => {
    for (const [before, content] of after)
      expect([before, (await fixture.server.post(before, content)).status]).toEqual([before, 200]);
    const headers = { "content-type": "application/json" };
    const response =
      method === "GET" ? await fixture.server.fetch(path) : await fixture.server.post(path, body, headers);
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.includes("json") ?? false;
    expect([response.status, isJson ? JSON.parse(text) : text]).toEqual([status, answer]);
    expect(fixture.controller.status.state).toBe(state);
    expect(calls).toEqual([...(expected.calls ?? [])]);
  },
);

describe("routes of peers", () => {
  test("routes that need a hook answer 501 and name the option when it is missing", async () => {
    await fixture.restart({});
    for (const [path, body, option] of [
      ["/reset_prefix_cache", undefined, "resetPrefixCache"],
      ["/flush_cache", undefined, "resetPrefixCache"],
      ["/abort_request", { rid: "r-1" }, "abortRequest"],
      ["/collective_rpc", { method: "reload_weights" }, "reload"],
      ["/update_weights_from_disk", { model_path: "/model" }, "reload"],
    ] as const) {
      const [status, answer] = await fixture.server.postJson(path, body);
      expect(JSON.stringify([path, answer])).toContain(`the option ${option}`);
      expect([status, answer]).toMatchObject([501, error(501, "NOT_SUPPORTED")]);
    }
    expect((await fixture.server.fetch("/health_generate")).status).toBe(200);
    expect(fixture.controller.status.state).toBe("awake");
  });

  test("/reset_prefix_cache answers 500 when its hook throws", async () => {
    const resetPrefixCache = () => Promise.reject(new Error("the cache is in use"));
    await fixture.restart({}, { resetPrefixCache });
    const [status, body] = await fixture.server.postJson("/reset_prefix_cache");
    expect([status, body]).toEqual([500, error(500, "HOOK_FAILED")]);
    expect(JSON.stringify(body)).toContain("the cache is in use");
  });

  test("/abort_request aborts requests in flight and leaves the engine awake", async () => {
    const leases = [await fixture.controller.admit(), await fixture.controller.admit()];
    expect(await fixture.server.json("/load")).toEqual([200, { server_load: 2 }]);
    expect((await fixture.server.post("/abort_request", { abort_all: true })).status).toBe(200);
    expect(leases.map(({ signal }) => signal.aborted)).toEqual([true, true]);
    for (const lease of leases) lease.release();
    expect(fixture.controller.status).toMatchObject({ state: "awake", requests: { abortedTotal: 2 } });
    (await fixture.controller.admit()).release();
  });

  test("/update_weights_from_disk waits for requests in flight, and aborts them when asked", async () => {
    const lease = await fixture.controller.admit();
    const updated = fixture.server.post("/update_weights_from_disk", { model_path: "/model" });
    await sleep(20);
    expect([calls, lease.signal.aborted]).toEqual([[], false]);
    lease.release();
    expect((await updated).status).toBe(200);
    const other = await fixture.controller.admit();
    other.signal.addEventListener("abort", () => other.release());
    const body = { model_path: "/model", abort_all_requests: true };
    expect((await fixture.server.post("/update_weights_from_disk", body)).status).toBe(200);
    expect(other.signal.aborted).toBe(true);
  });

  test("/update_weights_from_disk leaves no request on weights that were loaded in part", async () => {
    const body = { model_path: "missing" };
    expect((await fixture.server.post("/update_weights_from_disk", body)).status).toBe(500);
    expect((await fixture.server.fetch("/complete")).status).toBe(503);
    expect((await fixture.server.post("/collective_rpc", { method: "reload_weights" })).status).toBe(200);
    expect(await (await fixture.server.fetch("/complete")).text()).toBe(fixture.engine.expected("once", 8));
  });

  test("/health_generate wakes no engine", async () => {
    await fixture.restart({ reload, whenAsleep: "wake" }, hooks);
    await fixture.controller.sleep({ reason: "idle" });
    expect((await fixture.server.fetch("/health_generate")).status).toBe(200);
    expect([fixture.controller.status.state, calls]).toEqual(["asleep", []]);
  });

  test("/sleep?offload_tags keeps the content of exactly these tags", async () => {
    fixture.engine.cache.fill(7);
    await fixture.server.post("/sleep?offload_tags=kv_cache");
    expect([fixture.engine.weights.state, fixture.engine.cache.state]).toEqual(["discarded", "offloaded"]);
    expect((await fixture.server.post("/wake_up")).status).toBe(200);
    expect(fixture.engine.cache.read(0, 4)).toEqual(new Uint8Array(4).fill(7));
    expect(calls).toEqual([["reload", undefined]]);
    const plan = await fixture.server.json("/camem/plan?op=sleep&offload_tags=kv_cache");
    expect(plan).toMatchObject([
      200,
      { tags: { weights: { offloadBytes: 0 }, kv_cache: { offloadBytes: fixture.engine.cache.sizeBytes } } },
    ]);
  });
});
