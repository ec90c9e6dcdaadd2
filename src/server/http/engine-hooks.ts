/** What only the engine's author can do for a route: functions that `createHandler` is given. */

import type { Static, TObject } from "typebox";
import { CamemError, messageOf } from "../../errors.ts";
import { callback, optional } from "../../options/schemas.ts";
import type { Lease } from "../engine/lease.ts";
import { RequestError } from "./replies.ts";

/** Context of a hook of {@link createHandler}. */
export interface HandlerHookContext {
  /** The name of the engine. */
  readonly model: string;
}

/** Context of `abortRequest`. */
export interface AbortRequestContext extends HandlerHookContext {
  /** The client's name of the request, `rid`. */
  readonly requestId: string;
}

/** Context of `generateForHealth`. */
export interface GenerateForHealthContext extends HandlerHookContext {
  /** The lease under which to generate. It is released afterwards; its signal aborts when the client leaves. */
  readonly lease: Lease;
}

export const hookProperties = {
  /** Empties the engine's prefix cache, for `/reset_prefix_cache` and `/flush_cache`. The cache's memory may be asleep. */
  resetPrefixCache: optional(callback<(context: HandlerHookContext) => unknown>()),
  /** Aborts one request, for `/abort_request` with `rid`. */
  abortRequest: optional(callback<(context: AbortRequestContext) => unknown>()),
  /** Generates a token, for `/health_generate` while the engine is awake. Without it that route checks only the state. */
  generateForHealth: optional(callback<(context: GenerateForHealthContext) => unknown>()),
  /** Further properties of the answer to `/server_info`, such as `{ tp_size: 1 }`. */
  serverInfo: optional(callback<() => Readonly<Record<string, unknown>>>()),
};

export interface HandlerHooks extends Static<TObject<typeof hookProperties>> {}

/** @throws CamemError `HOOK_FAILED` for anything that `run` throws */
export async function runHook<T>(name: keyof typeof hookProperties, run: () => T): Promise<Awaited<T>> {
  try {
    return await run();
  } catch (cause) {
    throw new CamemError("HOOK_FAILED", `${name} threw: ${messageOf(cause)}`, { cause });
  }
}

/** A request that this server cannot fulfil, with the remedy. */
export function notSupported(message: string, param?: string): RequestError {
  return new RequestError(501, "NOT_SUPPORTED", message, { param });
}

export function missingHook(name: keyof typeof hookProperties): RequestError {
  return notSupported(`this engine has no ${name}: give createHandler the option ${name}`);
}
