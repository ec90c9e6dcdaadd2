/** The body of a request that is passed on while it arrives: a client that stops sending must not keep an engine awake. */

import { systemClock } from "../async/clock.ts";
import { RequestError } from "../server/http/replies.ts";

/** A body whose next piece did not arrive in time. */
export class BodyStalled extends RequestError {
  constructor(idleMs: number) {
    super(408, "TIMED_OUT", `nothing of the body arrived for ${idleMs} ms`, {
      headers: { connection: "close" },
    });
  }
}

/** The same body, which fails once nothing of it arrives for `idleMs` while it is read. Calls `onStalled` then. */
export function timelyBody(
  body: ReadableStream<Uint8Array>,
  idleMs: number,
  onStalled: (error: BodyStalled) => void,
): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const late = Promise.withResolvers<never>();
      const cancelTimer = systemClock.after(idleMs, () => late.reject(new BodyStalled(idleMs)));
      try {
        const { done, value } = await Promise.race([reader.read(), late.promise]);
        if (done) controller.close();
        else controller.enqueue(value);
      } catch (error) {
        if (error instanceof BodyStalled) onStalled(error);
        reader.cancel().catch(() => undefined);
        throw error;
      } finally {
        cancelTimer();
      }
    },
    cancel: (reason) => reader.cancel(reason),
  });
}
