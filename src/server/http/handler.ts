/** The administrative routes: vLLM's, SGLang's, and those of this package. */

import Type from "typebox";
import { CamemError, formatValue } from "../../errors.ts";
import { validate } from "../../options/validate.ts";
import type { DeviceMemory, SleepController } from "../engine/controller.ts";
import type { EngineListener } from "../engine/events.ts";
import { type EngineGroup, engineOf, groupOf } from "../pool/engine-group.ts";
import { type AccessCheck, type AccessOptions, createAccess, type ServerInfo } from "./access.ts";
import { EventStream } from "./event-stream.ts";
import { pageRoutes } from "./page.ts";
import { errorResponse, RequestError } from "./replies.ts";
import { type BodyLimits, readInput, urlOf } from "./request-input.ts";
import { TransitionHistory } from "./transition-history.ts";

export interface HandlerOptions extends AccessOptions {
  readonly engine: SleepController | EngineGroup;
  /** Also answers `GET /health`, to everybody: 200 while asleep too, 503 when an engine has failed. By default false. */
  readonly health?: boolean | undefined;
  /** The largest body that is read; by default 16,384 bytes. */
  readonly bodyLimitBytes?: number | undefined;
  /** The longest that a body may take to arrive, in milliseconds; by default 5,000. */
  readonly bodyTimeoutMs?: number | undefined;
  /** How often a quiet event stream shows that it lives, in milliseconds; by default 15,000. */
  readonly heartbeatMs?: number | undefined;
}

/** Answers a request; undefined when its path is none of ours. `server` is that of `Bun.serve`, which `loopbackOnly` needs. */
export interface AdminHandler {
  (request: Request, server?: ServerInfo): Promise<Response> | undefined;
  /** The same for `Bun.serve({ routes })`. */
  readonly routes: Readonly<Record<string, (request: Request, server: ServerInfo) => Promise<Response>>>;
  /** Ends every event stream; none is opened any more. */
  close(): void;
}

const Positive = Type.Integer({ minimum: 1, description: "a whole number above 0" });
const Given = Type.Unsafe<unknown>(Type.Unknown());
const OptionsSchema = Type.Object(
  {
    engine: Type.Unsafe<unknown>(Type.Unknown({ description: "a SleepController or a ModelPool" })),
    token: Type.Optional(Given),
    loopbackOnly: Type.Optional(Given),
    health: Type.Optional(Type.Boolean({ description: "true or false" })),
    bodyLimitBytes: Type.Optional(Positive),
    bodyTimeoutMs: Type.Optional(Positive),
    heartbeatMs: Type.Optional(Positive),
  },
  { additionalProperties: false },
);

const Model = Type.String({ description: "a model's name" });
const Tags = Type.Array(Type.String(), { description: "an array of tag names" });
const Level = Type.Union([Type.Literal(0), Type.Literal(1), Type.Literal(2)], { description: "0, 1 or 2" });
const Mode = Type.Union([Type.Literal("abort"), Type.Literal("wait"), Type.Literal("keep")], {
  description: '"abort", "wait" or "keep"',
});
const Flag = Type.Boolean({ description: "true or false" });
const Deadline = Type.Integer({ minimum: 0, description: "whole milliseconds, 0 or above" });

const ModelInput = Type.Object({ model: Model });
const TagsInput = Type.Object({ model: Model, tags: Tags });
const SleepInput = Type.Object({ model: Model, level: Level, mode: Mode, tags: Tags, deadline_ms: Deadline });
/** `clear_cache` is read as vLLM reads it and then ignored: a pause leaves all memory as it is. */
const PauseInput = Type.Object({
  model: Model,
  mode: Mode,
  wait_for_inflight_requests: Flag,
  clear_cache: Flag,
  deadline_ms: Deadline,
});
const PlanInput = Type.Object({
  model: Model,
  op: Type.Union([Type.Literal("sleep"), Type.Literal("wake")], { description: '"sleep" or "wake"' }),
  level: Level,
  tags: Tags,
});

type Answer = (request: Request) => Promise<Response>;
type Methods = Partial<Record<"GET" | "POST", Answer>> & {
  /** Who may in, where that is not who may use the other routes. */
  readonly check?: AccessCheck;
};

/** What the routes need. */
interface Admin {
  readonly group: EngineGroup;
  readonly limits: BodyLimits;
  readonly heartbeatMs: number;
  readonly streams: Set<EventStream>;
  readonly history: TransitionHistory;
  isClosed: boolean;
}

function sleepRoutes({ group, limits }: Admin): Record<string, Methods> {
  const every = async (request: Request, holds: (engine: SleepController) => boolean) => {
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
        const { model, tags } = await readInput(TagsInput, request, limits);
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
        Response.json({ is_sleeping: await every(request, (engine) => engine.isSleeping) }),
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
      GET: async (request) => Response.json({ is_paused: await every(request, (engine) => engine.isPaused) }),
    },
  };
}

/** SGLang's callers see to it that the engine is idle; what is in flight all the same is waited for. */
function sglangRoutes({ group, limits }: Admin): Record<string, Methods> {
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
  return {
    "/release_memory_occupation": { GET: release, POST: release },
    "/resume_memory_occupation": { GET: resume, POST: resume },
  };
}

/** What does not answer, as a lost device, is left out: the engines' statuses, which tell of it, are wanted all the more. */
function answerOf<T>(ask: () => T, missing: T): T {
  try {
    return ask();
  } catch (error) {
    if (error instanceof CamemError) return missing;
    throw error;
  }
}

/** Everything there is to know: each engine's status and tags, and what is free on the devices. */
function usageOf({ engines }: EngineGroup) {
  const controllers = [...engines.values()];
  const memories = controllers.flatMap((engine): DeviceMemory[] => answerOf(() => engine.deviceMemory(), []));
  const devices = new Map(memories.map((memory) => [memory.device, memory]));
  return {
    engines: Object.fromEntries(
      controllers.map((engine) => {
        const tags = answerOf(() => engine.usage(), {});
        return [engine.name, { status: engine.status, tags }];
      }),
    ),
    devices: [...devices.values()],
  };
}

/** A page that opens a stream at every reload, or a client that forgets its own, must not use up the process. */
const streamLimit = 64;

function openStream({ group, heartbeatMs, streams, isClosed }: Admin, signal: AbortSignal): Response {
  if (isClosed) throw new CamemError("CLOSED", "the server is stopping");
  if (streams.size >= streamLimit)
    throw new RequestError(503, `${streamLimit} event streams are open already`, null, {
      "retry-after": "5",
    });
  const subscribe = (listener: EngineListener) => group.subscribe(listener);
  return new EventStream({ snapshot: usageOf(group), heartbeatMs, signal, subscribe, streams }).response;
}

function camemRoutes(admin: Admin): Record<string, Methods> {
  const { group, limits, history } = admin;
  return {
    "/camem/usage": { GET: async () => Response.json(usageOf(group)) },
    "/camem/plan": {
      GET: async (request) => {
        const { model, op, ...options } = await readInput(PlanInput, request, limits);
        if (op === undefined)
          throw new RequestError(400, 'op is missing; it must be "sleep" or "wake"', "op");
        return Response.json(engineOf(group, model).plan(op, options));
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
    "/camem/transitions": { GET: async () => Response.json(history.transitions) },
    "/camem/events": { GET: async (request) => openStream(admin, request.signal) },
  };
}

function healthOf({ engines }: EngineGroup): Response {
  const failed = [...engines.values()].some((engine) => engine.status.state === "failed");
  return new Response(null, { status: failed ? 503 : 200 });
}

/**
 * The administrative routes for one engine, or for the engines of a pool, which requests then tell apart by `?model=`.
 *
 * @throws CamemError `INVALID_CONFIG`, also without `token` and `loopbackOnly`: nothing is open unless somebody has said to whom
 */
export function createHandler(options: HandlerOptions): AdminHandler {
  validate(OptionsSchema, options, "the options of createHandler", "INVALID_CONFIG");
  const { bodyLimitBytes = 16_384, bodyTimeoutMs = 5_000, heartbeatMs = 15_000, health = false } = options;
  const authorise = createAccess(options);
  const group = groupOf(options.engine);
  const admin: Admin = {
    group,
    limits: { sizeBytes: bodyLimitBytes, timeoutMs: bodyTimeoutMs },
    heartbeatMs,
    streams: new Set(),
    history: new TransitionHistory(group),
    isClosed: false,
  };
  const table = new Map(
    Object.entries<Methods>({
      ...sleepRoutes(admin),
      ...sglangRoutes(admin),
      ...camemRoutes(admin),
      ...pageRoutes(options),
    }),
  );

  const answer = async (methods: Methods, request: Request, server?: ServerInfo): Promise<Response> => {
    try {
      const { check = authorise, ...routes } = methods;
      check(request, server);
      const route = routes[request.method as keyof typeof routes];
      if (route === undefined) throw methodNotAllowed(request.method, Object.keys(routes));
      // A sleep may wait for requests in flight, and an event stream is quiet for long.
      server?.timeout?.(request, 0);
      return await route(request);
    } catch (error) {
      return errorResponse(error);
    }
  };
  const handle = (request: Request, server?: ServerInfo): Promise<Response> | undefined => {
    const { pathname } = urlOf(request);
    if (health && pathname === "/health" && request.method === "GET")
      return Promise.resolve(healthOf(admin.group));
    const methods = table.get(pathname) ?? (pathname.startsWith("/camem/") ? nothing : undefined);
    return methods && answer(methods, request, server);
  };
  const paths = [...table, ["/camem/*", nothing] as const].map(([path, methods]) => [
    path,
    (request: Request, server: ServerInfo) => answer(methods, request, server),
  ]);
  const healthRoute = health ? { "/health": async () => healthOf(admin.group) } : {};
  return Object.assign(handle, {
    routes: { ...Object.fromEntries(paths), ...healthRoute },
    close: () => {
      admin.isClosed = true;
      admin.history.close();
      for (const stream of [...admin.streams]) stream.end();
    },
  });
}

/** What is misspelt below /camem is no request to the model. */
const notFound: Answer = async (request) => {
  throw new RequestError(404, `there is no ${urlOf(request).pathname}; README.md lists the routes`);
};
const nothing: Methods = { GET: notFound, POST: notFound };

function methodNotAllowed(method: string, allowed: readonly string[]): RequestError {
  const allow = allowed.join(", ");
  return new RequestError(405, `${formatValue(method)} is not possible here; use ${allow}`, null, { allow });
}
