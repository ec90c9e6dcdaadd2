import Type from "typebox";
import type { EngineGroup } from "../pool/engine-group.ts";
import type { AccessCheck } from "./access.ts";
import type { HandlerHooks } from "./engine-hooks.ts";
import type { BodyLimits } from "./request-input.ts";

/** Answers one method of one path. */
export type Answer = (request: Request) => Promise<Response>;

/** The methods of one path. */
export type Route = Partial<Record<"GET" | "HEAD" | "POST", Answer>> & {
  /** True when GET changes the engine, as POST does; then there is no HEAD. */
  readonly getChangesState?: boolean;
  /** True when POST changes nothing. */
  readonly readsOnly?: boolean;
  /** Who may use the route, where that differs from the other routes. */
  readonly check?: AccessCheck;
};

/** Routes by path. */
export type Routes = Record<string, Route>;

/** What every dialect's routes need. */
export interface RouteContext {
  readonly group: EngineGroup;
  readonly limits: BodyLimits;
  readonly hooks: HandlerHooks;
}

/** The input property that names an engine. */
export const Model = Type.String({ description: "a model's name" });
