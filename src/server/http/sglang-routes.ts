/** The administrative routes in SGLang's dialect. */

import Type from "typebox";
import { abortable } from "../../async/abortable.ts";
import { Flag, Tags, WholeMilliseconds } from "../../options/schemas.ts";
import type { SleepController } from "../engine/controller.ts";
import { engineOf } from "../pool/engine-group.ts";
import { reloadWeights } from "./engine-calls.ts";
import { type HandlerHooks, missingHook, runHook } from "./engine-hooks.ts";
import { errorResponse, RequestError } from "./replies.ts";
import { invalid, locate, readInput } from "./request-input.ts";
import { type Answer, Model, type RouteContext, type Routes } from "./route.ts";

const ModelInput = Type.Object({ model: Model });
const TagsInput = Type.Object({ model: Model, tags: Tags });
/** `retract` and `in_place` keep the requests; whether their cache stays is decided by the sleep that may follow. */
const PauseInput = Type.Object({
  model: Model,
  mode: Type.Union([Type.Literal("abort"), Type.Literal("retract"), Type.Literal("in_place")], {
    description: '"abort", "retract" or "in_place"',
  }),
  deadline_ms: WholeMilliseconds,
});
const ContinueInput = Type.Object({ model: Model, torch_empty_cache: Flag });
const FlushInput = Type.Object({
  model: Model,
  timeout: Type.Number({ minimum: 0, description: "seconds, 0 or above" }),
});
const AbortInput = Type.Object({
  model: Model,
  rid: Type.String({ description: "the id of a request" }),
  abort_all: Flag,
  abort_message: Type.String({ description: "a text" }),
});
/** Properties that have no meaning here are checked and then ignored. */
const UpdateInput = Type.Object({
  model: Model,
  model_path: Type.String({ minLength: 1, description: "the path or name of a checkpoint" }),
  load_format: Type.Literal("auto", { description: '"auto": the engine\'s reload knows its format' }),
  abort_all_requests: Flag,
  flush_cache: Flag,
  weight_version: Type.String({ description: "a text" }),
  is_async: Flag,
  torch_empty_cache: Flag,
  keep_pause: Flag,
  recapture_cuda_graph: Flag,
  token_step: Type.Integer({ description: "a whole number" }),
});

const generateTimeoutMs = 20_000;

export function sglangRoutes(context: RouteContext): Routes {
  return { ...memoryRoutes(context), ...requestRoutes(context), ...weightRoutes(context) };
}

function memoryRoutes({ group, limits, hooks }: RouteContext): Routes {
  // SGLang's clients release memory of idle engines only. A request that is in flight nevertheless is awaited.
  const release: Answer = async (request) => {
    const { model, tags } = await readInput(TagsInput, request, limits);
    await engineOf(group, model).sleep({ level: 1, mode: "wait", tags });
    return Response.json(null);
  };
  const resume: Answer = async (request) => {
    const { model, tags } = await readInput(TagsInput, request, limits);
    await group.wakeUp(engineOf(group, model).name, { tags });
    return Response.json(null);
  };
  const flush: Answer = async (request) => {
    const { model } = await readInput(FlushInput, request, limits);
    const { name } = engineOf(group, model);
    const { resetPrefixCache } = hooks;
    if (resetPrefixCache === undefined) throw missingHook("resetPrefixCache");
    await runHook("resetPrefixCache", () => resetPrefixCache({ model: name }));
    return new Response("Cache flushed.\n");
  };
  return {
    "/release_memory_occupation": { GET: release, POST: release, getChangesState: true },
    "/resume_memory_occupation": { GET: resume, POST: resume, getChangesState: true },
    "/flush_cache": { GET: flush, POST: flush, getChangesState: true },
  };
}

function requestRoutes(context: RouteContext): Routes {
  const { group, limits, hooks } = context;
  return {
    "/pause_generation": {
      POST: async (request) => {
        const { model, mode = "abort", deadline_ms } = await readInput(PauseInput, request, limits);
        const own = mode === "abort" ? "abort" : "keep";
        await engineOf(group, model).pause({ mode: own, deadlineMs: deadline_ms });
        return Response.json({ status: "ok", message: "generation is paused" });
      },
    },
    "/continue_generation": {
      POST: async (request) => {
        const { model } = await readInput(ContinueInput, request, limits);
        await engineOf(group, model).resume();
        return Response.json({ status: "ok", message: "generation continues" });
      },
    },
    "/abort_request": {
      POST: async (request) => {
        const { model, rid, abort_all } = await readInput(AbortInput, request, limits);
        const engine = engineOf(group, model);
        if (abort_all) group.abortRequests(engine.name);
        else if (!rid) throw invalid("give rid, the id of a request, or abort_all", "body.rid");
        else await abortOne(hooks, engine.name, rid);
        return new Response(null);
      },
    },
    "/health_generate": {
      GET: async (request) => {
        const { model } = await readInput(ModelInput, request, limits);
        const engines = model === undefined ? [...group.engines.values()] : [engineOf(group, model)];
        for (const engine of engines) await assertServes(context, engine, request);
        return new Response(null);
      },
    },
  };
}

async function abortOne({ abortRequest }: HandlerHooks, model: string, requestId: string): Promise<void> {
  if (abortRequest === undefined) throw missingHook("abortRequest");
  await runHook("abortRequest", () => abortRequest({ model, requestId }));
}

/**
 * An awake engine generates, if it has the hook. One that a request would wake is not woken for a probe.
 *
 * @throws RequestError 503; CamemError `HOOK_FAILED`
 */
async function assertServes({ group, hooks }: RouteContext, engine: SleepController, request: Request) {
  const { name, disposition } = engine;
  const { state, reason } = engine.status;
  const { generateForHealth } = hooks;
  if (state !== "awake") {
    if (state === "asleep" && reason !== "operator" && disposition !== "refuse") return;
    throw unavailable(`the engine ${name} is ${state}`);
  }
  if (generateForHealth === undefined) return;
  const signal = AbortSignal.any([request.signal, AbortSignal.timeout(generateTimeoutMs)]);
  const lease = await group.admit(name, signal);
  // The lease ends with the hook, which may still use the engine's memory when the answer has gone.
  const run = runHook("generateForHealth", () => generateForHealth({ model: name, lease })).finally(() =>
    lease.release(),
  );
  try {
    await abortable(run, signal);
  } catch (error) {
    throw signal.aborted ? unavailable(`the engine ${name} generated nothing within 20 s`) : error;
  }
}

function unavailable(message: string): RequestError {
  return new RequestError(503, "ENGINE_UNAVAILABLE", message, { headers: { "retry-after": "5" } });
}

function weightRoutes({ group, limits, hooks }: RouteContext): Routes {
  const update: Answer = async (request) => {
    const input = await readInput(UpdateInput, request, limits);
    const engine = engineOf(group, input.model);
    const { model_path: modelPath, abort_all_requests, flush_cache = true } = input;
    if (modelPath === undefined)
      throw invalid("model_path is missing; it must be the path or name of a checkpoint", "body.model_path");
    await reloadWeights(engine, { modelPath, mode: abort_all_requests ? "abort" : "wait" });
    const { resetPrefixCache } = hooks;
    if (flush_cache && resetPrefixCache)
      await runHook("resetPrefixCache", () => resetPrefixCache({ model: engine.name }));
    return Response.json({ success: true, message: "the weights are loaded", num_paused_requests: 0 });
  };
  return {
    "/update_weights_from_disk": {
      // SGLang's clients read `success` and `message` from every answer.
      POST: async (request) => {
        try {
          return await update(request);
        } catch (error) {
          return await withSuccess(errorResponse(error, (name) => locate(request, name)));
        }
      },
    },
  };
}

/** An error's answer, with SGLang's properties beside it. */
async function withSuccess(response: Response): Promise<Response> {
  const body = (await response.json()) as { readonly error: { readonly message: string } };
  const { status, headers } = response;
  headers.delete("content-length");
  return Response.json({ success: false, message: body.error.message, ...body }, { status, headers });
}
