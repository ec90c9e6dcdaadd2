/** Admission of HTTP requests to a model. */

import type { Static } from "typebox";
import { CamemError, formatValue } from "../../errors.ts";
import { closedObject, optional, unchecked } from "../../options/schemas.ts";
import { validate } from "../../options/validate.ts";
import type { SleepController } from "../engine/controller.ts";
import type { Lease } from "../engine/lease.ts";
import { type EngineGroup, engineOf, groupOf } from "../pool/engine-group.ts";
import { errorResponse } from "./replies.ts";
import { disableIdleTimeout, type ServerInfo } from "./server-info.ts";

/** The client chooses these values: `admitRequest` answers bad ones instead of throwing. */
const AdmitRequestOptions = closedObject({
  /** The name of the engine. It may be left out when there is only one. */
  model: optional(unchecked<string>()),
  /**
   * The server of `Bun.serve`, whose idle timeout is disabled for this request: it may be held, and its answer may pause. What
   * `Deno.serve` passes is accepted too.
   */
  server: optional(unchecked<ServerInfo>()),
  /** The longest that the request is held, in milliseconds; by default the controller's `holdDeadlineMs`. */
  deadlineMs: optional(unchecked<number>()),
});

/** Options of {@link admitRequest}. */
export interface AdmitRequestOptions extends Static<typeof AdmitRequestOptions> {}

/**
 * Admits a request to a model. Returns a lease, which `request.signal` aborts, or the answer that refuses the request: 503 with
 * `Retry-After`, or 404 for an unknown model. Release the lease when the engine's work for the request is done.
 *
 * @throws CamemError `INVALID_ARGUMENT` or `INVALID_CONFIG` for a mistake in the call itself, such as a misspelt option
 */
export async function admitRequest(
  engine: SleepController | EngineGroup,
  request: Request,
  options: AdmitRequestOptions = {},
): Promise<Lease | Response> {
  if (!(request instanceof Request))
    throw new CamemError("INVALID_ARGUMENT", `request is ${formatValue(request)}; it must be a Request`);
  validate(AdmitRequestOptions, options, "admitRequest", "INVALID_ARGUMENT");
  const { model, server, deadlineMs } = options;
  const group = groupOf(engine);
  try {
    const { name } = engineOf(group, model);
    disableIdleTimeout(request, server);
    return await group.admit(name, request.signal, { deadlineMs });
  } catch (error) {
    return errorResponse(error);
  }
}
