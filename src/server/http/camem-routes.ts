/** The routes of this package: usage, plans, transitions, events. */

import Type from "typebox";
import { CamemError } from "../../errors.ts";
import { Level, Tags } from "../../options/schemas.ts";
import type { SleepController } from "../engine/controller.ts";
import type { DeviceMemory } from "../engine/results.ts";
import { type EngineGroup, engineOf } from "../pool/engine-group.ts";
import { depthOf } from "./engine-calls.ts";
import { type EventStreams, eventStreamHeaders } from "./event-stream.ts";
import { invalid, readInput } from "./request-input.ts";
import { Model, type RouteContext, type Routes } from "./route.ts";
import type { TransitionHistory } from "./transition-history.ts";

const NoInput = Type.Object({});
const ModelInput = Type.Object({ model: Model });
const PlanInput = Type.Object({
  model: Model,
  op: Type.Union([Type.Literal("sleep"), Type.Literal("wake")], { description: '"sleep" or "wake"' }),
  level: Level,
  tags: Tags,
  offload_tags: Tags,
});

interface CamemRouteContext extends RouteContext {
  readonly history: TransitionHistory;
  readonly streams: EventStreams;
}

export function camemRoutes({ group, limits, history, streams }: CamemRouteContext): Routes {
  return {
    "/camem/usage": {
      GET: async (request) => {
        await readInput(NoInput, request, limits);
        return Response.json(usageOf(group));
      },
    },
    "/camem/plan": {
      GET: async (request) => {
        const input = await readInput(PlanInput, request, limits);
        const { model, op, tags } = input;
        if (op === undefined) throw invalid('op is missing; it must be "sleep" or "wake"', "query.op");
        return Response.json(engineOf(group, model).plan(op, { ...depthOf(input), tags }));
      },
    },
    "/camem/confirm_weights": {
      POST: async (request) => {
        const { model } = await readInput(ModelInput, request, limits);
        const engine = engineOf(group, model);
        await engine.confirmWeights();
        return Response.json({ status: engine.isSleeping ? "sleeping" : "awake" });
      },
    },
    "/camem/transitions": {
      GET: async (request) => {
        await readInput(NoInput, request, limits);
        return Response.json(history.transitions);
      },
    },
    "/camem/events": {
      GET: async (request) => {
        await readInput(NoInput, request, limits);
        return streams.open(usageOf(group), request.signal);
      },
      HEAD: async (request) => {
        await readInput(NoInput, request, limits);
        return new Response(null, { headers: eventStreamHeaders });
      },
    },
  };
}

/** Page-locked host memory of all engines. Engines of one process share it. */
function hostOf(controllers: readonly SleepController[]) {
  const allocators = new Set(controllers.map((engine) => engine.allocator));
  const usages = [...allocators].flatMap((allocator) => readOr(() => allocator.hostUsage?.() ?? [], []));
  const sumOf = (name: "pageLockedBytes" | "freeBytes") =>
    usages.reduce((sum, usage) => sum + usage[name], 0);
  return { pageLockedBytes: sumOf("pageLockedBytes"), freeBytes: sumOf("freeBytes") };
}

/** Status and tags of each engine, the memory of the devices, and page-locked host memory. */
function usageOf(group: EngineGroup) {
  const controllers = [...group.engines.values()];
  const memories = controllers.flatMap((engine): DeviceMemory[] => readOr(() => engine.deviceMemory(), []));
  const devices = new Map(memories.map((memory) => [memory.device, memory]));
  return {
    engines: Object.fromEntries(
      controllers.map((engine) => {
        const tags = readOr(() => engine.usage(), {});
        return [engine.name, { status: engine.status, queue: group.queueOf(engine.name), tags }];
      }),
    ),
    devices: [...devices.values()],
    host: hostOf(controllers),
  };
}

/** A lost device is left out, because the engine's status, which reports it, is needed then. */
function readOr<T>(read: () => T, fallback: T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof CamemError) return fallback;
    throw error;
  }
}
