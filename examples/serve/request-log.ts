/** One line for each request, when its answer has ended. */

type Handler<Server> = (request: Request, server: Server) => Response | Promise<Response>;

/** Passes `body` on, and reports how it ended, once. */
function observed(
  body: ReadableStream<Uint8Array>,
  onEnd: (how: string) => void,
): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream<Uint8Array>({
    async pull(output) {
      try {
        const { done, value } = await reader.read();
        if (!done) return output.enqueue(value);
        onEnd("");
        output.close();
      } catch (error) {
        onEnd(", failed");
        output.error(error);
      }
    },
    cancel(reason) {
      onEnd(", the client left");
      return reader.cancel(reason);
    },
  });
}

/** `handle`, which writes a line to `write` for each request: time, method, target, status, duration. */
export function logged<Server>(handle: Handler<Server>, write: (line: string) => void): Handler<Server> {
  return async (request, server) => {
    const started = new Date();
    const target = request.url.replace(/^https?:\/\/[^/?#]*/, "");
    const response = await handle(request, server);
    const end = (how: string) => {
      const durationMs = Date.now() - started.getTime();
      write(`${started.toISOString()} ${request.method} ${target} ${response.status} ${durationMs} ms${how}`);
    };
    if (!response.headers.get("content-type")?.startsWith("text/event-stream") || response.body === null) {
      end("");
      return response;
    }
    const { status, headers } = response;
    return new Response(observed(response.body, end), { status, headers });
  };
}
