/** Requests to a model: held or refused, as its controller is configured, and never let in while it sleeps. */

import Type from "typebox";
import { CamemError, formatValue } from "../../errors.ts";
import { validate } from "../../options/validate.ts";
import type { Lease } from "../engine/admission.ts";
import type { SleepController } from "../engine/controller.ts";
import type { AdmitOptions } from "../engine/controller-options.ts";
import { type EngineGroup, engineOf, groupOf } from "../pool/engine-group.ts";
import type { ServerInfo } from "./access.ts";
import { errorResponse } from "./replies.ts";

const Given = Type.Unsafe<unknown>(Type.Unknown());
/** What the request itself gives is checked where it is used, and answered. */
const OptionsSchema = Type.Object(
  { model: Type.Optional(Given), server: Type.Optional(Given), deadlineMs: Type.Optional(Given) },
  { additionalProperties: false },
);

export interface AdmitRequestOptions extends AdmitOptions {
  /** The name of the engine; may be left out where there is but one. */
  readonly model?: string | undefined;
  /** The server of `Bun.serve`, whose idle timeout is lifted for this request: it may be held, and its answer may pause. */
  readonly server?: ServerInfo | undefined;
}

/**
 * A lease for a request to a model, which `request.signal` ends, or the answer that refuses it: 503 with `Retry-After`, or 404 for
 * a model that there is not. Release the lease when the engine's work for the request is done.
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
  validate(OptionsSchema, options, "the options of admitRequest", "INVALID_ARGUMENT");
  const { model, server, deadlineMs } = options;
  const group = groupOf(engine);
  try {
    const { name } = engineOf(group, model);
    server?.timeout?.(request, 0);
    return await group.admit(name, request.signal, { deadlineMs });
  } catch (error) {
    return errorResponse(error);
  }
}

const encoder = new TextEncoder();

/**
 * A response's body from what an engine writes piece by piece. Releases the lease when `source` has ended, has thrown, or has
 * returned after the client went away, whichever comes first, also if it never was started. Not before: until then the engine
 * may be at work.
 */
export function leasedStream(
  lease: Lease,
  source: AsyncIterable<string | Uint8Array>,
): ReadableStream<Uint8Array> {
  const pieces = source[Symbol.asyncIterator]();
  let cancelled = false;
  return new ReadableStream<Uint8Array>({
    async pull(output) {
      try {
        const { done, value } = await pieces.next();
        // Its client went away meanwhile, and `cancel` sees to the rest.
        if (cancelled) return;
        if (!done) return output.enqueue(typeof value === "string" ? encoder.encode(value) : value);
      } catch (error) {
        lease.release();
        // Bun prints what a body fails with. That a request was ended early is no news; its client sees the connection cut.
        return output.error(lease.signal.aborted ? undefined : error);
      }
      lease.release();
      output.close();
    },
    async cancel() {
      cancelled = true;
      try {
        await pieces.return?.();
      } finally {
        lease.release();
      }
    },
  });
}
