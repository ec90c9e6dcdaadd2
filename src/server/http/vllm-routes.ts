/** The administrative routes in vLLM's dialect. */

import Type from "typebox";
import manifest from "../../../package.json" with { type: "json" };
import { Flag, Level, Mode, Tags, WholeMilliseconds } from "../../options/schemas.ts";
import type { SleepController } from "../engine/controller.ts";
import { engineOf } from "../pool/engine-group.ts";
import { depthOf, reloadWeights } from "./engine-calls.ts";
import { missingHook, notSupported, runHook } from "./engine-hooks.ts";
import { invalid, readInput } from "./request-input.ts";
import { type Answer, Model, type RouteContext, type Routes } from "./route.ts";

const NoInput = Type.Object({});
const ModelInput = Type.Object({ model: Model });
const WakeInput = Type.Object({ model: Model, tags: Tags });
const SleepInput = Type.Object({
  model: Model,
  level: Level,
  mode: Mode,
  tags: Tags,
  offload_tags: Tags,
  deadline_ms: WholeMilliseconds,
});
const ReleaseCacheInput = Type.Object({ model: Model, mode: Mode, deadline_ms: WholeMilliseconds });
/** `clear_cache` is checked as in vLLM and then ignored, because a pause leaves all memory as it is. */
const PauseInput = Type.Object({
  model: Model,
  mode: Mode,
  wait_for_inflight_requests: Flag,
  clear_cache: Flag,
  deadline_ms: WholeMilliseconds,
});
/** The flags are vLLM's; they select what the engine's own hook empties anyway. */
const ResetCacheInput = Type.Object({ model: Model, reset_running_requests: Flag, reset_external: Flag });
const RpcInput = Type.Object({
  model: Model,
  method: Type.String({ description: "the name of a method" }),
  args: Type.Array(Type.Unknown(), { maxItems: 0, description: "empty" }),
  kwargs: Type.Object(
    { weights_path: Type.Optional(Type.Union([Type.String({ minLength: 1 }), Type.Null()])) },
    { additionalProperties: false, description: '{} or {"weights_path": "…"}' },
  ),
  timeout: Type.Number({ exclusiveMinimum: 0, maximum: 1e6, description: "seconds, above 0" }),
});
/** All engines run in one process, so there is no data parallelism. */
const WorldSizeInput = Type.Object({ model: Model, include_dp: Flag });
const ServerInfoInput = Type.Object({
  config_format: Type.Union([Type.Literal("text"), Type.Literal("json")], {
    description: '"text" or "json"',
  }),
});

export function vllmRoutes(context: RouteContext): Routes {
  return {
    ...memoryRoutes(context),
    ...pauseRoutes(context),
    ...controlRoutes(context),
    ...factRoutes(context),
  };
}

async function holdsForEvery(
  { group, limits }: RouteContext,
  request: Request,
  holds: (engine: SleepController) => boolean,
): Promise<boolean> {
  const { model } = await readInput(ModelInput, request, limits);
  const engines = model === undefined ? [...group.engines.values()] : [engineOf(group, model)];
  return engines.every(holds);
}

function memoryRoutes(context: RouteContext): Routes {
  const { group, limits } = context;
  return {
    "/sleep": {
      POST: async (request) => {
        const input = await readInput(SleepInput, request, limits);
        const { model, mode, tags, deadline_ms: deadlineMs } = input;
        const options = { ...depthOf(input), mode, tags, deadlineMs };
        const { level, alreadySleeping } = await engineOf(group, model).sleep(options);
        return Response.json({
          status: "sleeping",
          level,
          ...(alreadySleeping && { already_sleeping: true }),
        });
      },
    },
    "/release_kv_cache_memory": {
      // vLLM refuses while requests are in flight. Here they are awaited.
      POST: async (request) => {
        const { model, mode = "wait", deadline_ms } = await readInput(ReleaseCacheInput, request, limits);
        await engineOf(group, model).sleep({ tags: ["kv_cache"], mode, deadlineMs: deadline_ms });
        return Response.json({ status: "kv_cache_released" });
      },
    },
    "/wake_up": {
      POST: async (request) => {
        const { model, tags } = await readInput(WakeInput, request, limits);
        const engine = engineOf(group, model);
        const { alreadyAwake } = await group.wakeUp(engine.name, { tags });
        const { awaitingTags } = engine.status;
        return Response.json({
          status: engine.isSleeping ? "sleeping" : "awake",
          tags: tags ?? null,
          ...(alreadyAwake && { already_awake: true }),
          ...(awaitingTags.length > 0 && { awaiting_weights: awaitingTags }),
        });
      },
    },
    "/is_sleeping": {
      GET: async (request) =>
        Response.json({ is_sleeping: await holdsForEvery(context, request, (engine) => engine.isSleeping) }),
    },
  };
}

function pauseRoutes(context: RouteContext): Routes {
  const { group, limits } = context;
  return {
    "/pause": {
      POST: async (request) => {
        const input = await readInput(PauseInput, request, limits);
        const mode = input.wait_for_inflight_requests ? "wait" : input.mode;
        await engineOf(group, input.model).pause({ mode, deadlineMs: input.deadline_ms });
        return Response.json({ status: "paused" });
      },
    },
    "/resume": {
      POST: async (request) => {
        const { model } = await readInput(ModelInput, request, limits);
        await engineOf(group, model).resume();
        return Response.json({ status: "resumed" });
      },
    },
    "/is_paused": {
      GET: async (request) =>
        Response.json({ is_paused: await holdsForEvery(context, request, (engine) => engine.isPaused) }),
    },
  };
}

/** What vLLM's clients call around a sleep: loading weights, and emptying the prefix cache. */
function controlRoutes({ group, limits, hooks }: RouteContext): Routes {
  return {
    "/collective_rpc": {
      POST: async (request) => {
        const { model, method, kwargs, timeout } = await readInput(RpcInput, request, limits);
        const engine = engineOf(group, model);
        if (method === undefined)
          throw invalid('method is missing; it must be "reload_weights"', "body.method");
        if (method !== "reload_weights")
          throw notSupported(
            `there is no method ${JSON.stringify(method)}; use "reload_weights"`,
            "body.method",
          );
        await reloadWeights(engine, {
          modelPath: kwargs?.weights_path ?? undefined,
          signal: timeout === undefined ? undefined : AbortSignal.timeout(timeout * 1000),
        });
        return Response.json({ results: engine.devices.map(() => null) });
      },
    },
    "/reset_prefix_cache": {
      POST: async (request) => {
        const { model } = await readInput(ResetCacheInput, request, limits);
        const { name } = engineOf(group, model);
        const { resetPrefixCache } = hooks;
        if (resetPrefixCache === undefined) throw missingHook("resetPrefixCache");
        await runHook("resetPrefixCache", () => resetPrefixCache({ model: name }));
        return new Response(null);
      },
    },
  };
}

/** Facts that vLLM's clients and routers read. */
function factRoutes({ group, limits, hooks }: RouteContext): Routes {
  const requestsOf = ({ name, status: { requests } }: SleepController) =>
    requests.running + requests.parked + requests.waiting + group.queueOf(name).waiting;
  const answer =
    (read: (request: Request) => Promise<object>): Answer =>
    async (request) =>
      Response.json(await read(request));
  return {
    "/load": {
      GET: answer(async (request) => {
        const { model } = await readInput(ModelInput, request, limits);
        const engines = model === undefined ? [...group.engines.values()] : [engineOf(group, model)];
        return { server_load: engines.reduce((sum, engine) => sum + requestsOf(engine), 0) };
      }),
    },
    "/version": {
      GET: answer(async (request) => {
        await readInput(NoInput, request, limits);
        return { version: manifest.version };
      }),
    },
    "/server_info": {
      GET: answer(async (request) => {
        await readInput(ServerInfoInput, request, limits);
        const { serverInfo } = hooks;
        const more = serverInfo ? await runHook("serverInfo", () => serverInfo()) : {};
        const engines = [...group.engines.values()].map((engine) => engine.status);
        return { version: manifest.version, engines, ...more };
      }),
    },
    "/get_world_size": {
      GET: answer(async (request) => {
        const { model } = await readInput(WorldSizeInput, request, limits);
        return { world_size: engineOf(group, model).devices.length };
      }),
    },
  };
}
