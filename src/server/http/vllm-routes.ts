/** The administrative routes in vLLM's dialect. */

import Type from "typebox";
import { Flag, Level, Mode, Tags, WholeMilliseconds } from "../../options/schemas.ts";
import type { SleepController } from "../engine/controller.ts";
import { engineOf } from "../pool/engine-group.ts";
import { readInput } from "./request-input.ts";
import { Model, type RouteContext, type Routes } from "./route.ts";

const ModelInput = Type.Object({ model: Model });
const WakeInput = Type.Object({ model: Model, tags: Tags });
const SleepInput = Type.Object({
  model: Model,
  level: Level,
  mode: Mode,
  tags: Tags,
  deadline_ms: WholeMilliseconds,
});
/** `clear_cache` is checked as in vLLM and then ignored, because a pause leaves all memory as it is. */
const PauseInput = Type.Object({
  model: Model,
  mode: Mode,
  wait_for_inflight_requests: Flag,
  clear_cache: Flag,
  deadline_ms: WholeMilliseconds,
});

export function vllmRoutes({ group, limits }: RouteContext): Routes {
  const forEvery = async (request: Request, holds: (engine: SleepController) => boolean) => {
    const { model } = await readInput(ModelInput, request, limits);
    const engines = model === undefined ? [...group.engines.values()] : [engineOf(group, model)];
    return engines.every(holds);
  };
  return {
    "/sleep": {
      POST: async (request) => {
        const input = await readInput(SleepInput, request, limits);
        const { model, deadline_ms: deadlineMs, ...rest } = input;
        const { level, alreadySleeping } = await engineOf(group, model).sleep({ ...rest, deadlineMs });
        return Response.json({
          status: "sleeping",
          level,
          ...(alreadySleeping && { already_sleeping: true }),
        });
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
        Response.json({ is_sleeping: await forEvery(request, (engine) => engine.isSleeping) }),
    },
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
        Response.json({ is_paused: await forEvery(request, (engine) => engine.isPaused) }),
    },
  };
}
