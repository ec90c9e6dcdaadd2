/** What passes through the proxy: headers, statuses, streams, disconnects. */

import { expect, test } from "bun:test";
import { connect, createServer, type Socket } from "node:net";
import { MiB } from "../support/device.ts";
import { until } from "../support/fake-engine.ts";
import { rejectionOf } from "../support/rejection.ts";
import { raw } from "../support/test-server.ts";
import { ProxyFixture } from "./proxy-fixture.ts";

const post = { method: "POST", body: "once" };

function eventStream(
  start: (output: ReadableStreamDefaultController<string>) => void,
  cancel?: () => void,
): Response {
  const body = new ReadableStream<string>({ start, ...(cancel && { cancel }) });
  return new Response(body.pipeThrough(new TextEncoderStream()), {
    headers: { "content-type": "text/event-stream" },
  });
}

test("forward passes each event of a stream on when it comes", async () => {
  let output: ReadableStreamDefaultController<string> | undefined;
  await using fixture = new ProxyFixture(() =>
    eventStream((controller) => {
      output = controller;
      controller.enqueue("data: 1\n\n");
    }),
  );
  const response = await fixture.fetch("/v1/completions", post);
  expect(response.headers.get("content-type")).toBe("text/event-stream");
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  expect((await reader?.read())?.value).toBe("data: 1\n\n");
  expect(fixture.controller.status.requests.running).toBe(1);
  output?.enqueue("data: 2\n\n");
  expect((await reader?.read())?.value).toBe("data: 2\n\n");
  output?.close();
  expect((await reader?.read())?.done).toBe(true);
  await until(() => fixture.controller.status.requests.running === 0);
});

test("forward tells the engine when the client disconnects during the answer", async () => {
  let cancelled = false;
  await using fixture = new ProxyFixture((request) => {
    request.signal.addEventListener("abort", () => {
      cancelled = true;
    });
    return eventStream((controller) => controller.enqueue("data: 1\n\n"));
  });
  const abort = new AbortController();
  const response = await fixture.fetch("/v1/completions", { ...post, signal: abort.signal });
  await response.body?.getReader().read();
  abort.abort();
  await until(() => cancelled && fixture.controller.status.requests.running === 0);
});

test("forward tells the engine when the client disconnects before the answer", async () => {
  let state = "waiting";
  await using fixture = new ProxyFixture(async (request) => {
    state = "reached";
    await new Promise((resolve) => request.signal.addEventListener("abort", resolve));
    state = "aborted";
    return new Response();
  });
  const abort = new AbortController();
  const pending = fixture.fetch("/v1/completions", { ...post, signal: abort.signal });
  await until(() => state === "reached");
  abort.abort();
  await rejectionOf(pending);
  await until(() => state === "aborted" && fixture.controller.status.requests.running === 0);
});

/** Sends the head of a request and `sent` of its body, and returns what comes back. */
function answerToPart(port: number, sent: string): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    const socket = connect(port, "127.0.0.1", () =>
      socket.write(`POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n${sent}`),
    );
    socket.on("data", (data) => (text += data));
    socket.on("close", () => resolve(text));
  });
}

test.each(["", "a part"])(
  "forward refuses a body that stops after %p, and lets the engine sleep",
  async (sent) => {
    await using fixture = new ProxyFixture(async (request) => new Response(await request.text()), {
      bodyIdleMs: 50,
    });
    const text = await answerToPart(fixture.port, sent);
    expect(text).toContain("408");
    expect(text).toContain("nothing of the body arrived for 50 ms");
    expect(fixture.controller.status.requests.running).toBe(0);
  },
);

test("forward waits for the pieces of a slow body", async () => {
  await using fixture = new ProxyFixture(async (request) => new Response(await request.text()), {
    bodyIdleMs: 500,
  });
  const pieces = ["one", "two", "three", "four"];
  async function* slowly() {
    for (const piece of pieces) {
      await Bun.sleep(200);
      yield new TextEncoder().encode(piece);
    }
  }
  const response = await fixture.fetch("/v1/completions", { method: "POST", body: slowly() as never });
  expect(await response.text()).toBe(pieces.join(""));
});

test("forward ends the answer when a sleep in mode abort begins", async () => {
  await using fixture = new ProxyFixture(() =>
    eventStream((controller) => controller.enqueue("data: 1\n\n")),
  );
  const response = await fixture.fetch("/v1/completions", post);
  const text = response.text().catch(() => "ended");
  await fixture.controller.sleep({ mode: "abort" });
  expect(await text).not.toBe("");
  expect(fixture.controller.status.state).toBe("asleep");
});

test("forward answers 503 when a sleep in mode abort begins before the answer", async () => {
  let isReached = false;
  await using fixture = new ProxyFixture(() => {
    isReached = true;
    return new Promise<Response>(() => undefined);
  });
  const pending = fixture.fetch("/v1/completions", post);
  await until(() => isReached);
  await fixture.controller.sleep({ mode: "abort" });
  const response = await pending;
  expect([response.status, response.headers.get("retry-after")]).toEqual([503, "5"]);
});

test("forward cuts the answer off when the engine dies in the middle", async () => {
  await using engine = new RawEngine((socket) => {
    socket.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    setTimeout(() => socket.destroy(), 20);
  });
  await using fixture = new ProxyFixture(await engine.url());
  let answer = "";
  const client = connect(fixture.port, "127.0.0.1", () =>
    client.write("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"),
  );
  client.on("data", (data) => {
    answer += data;
  });
  client.on("error", () => undefined);
  await new Promise((resolve) => client.once("close", resolve));
  expect(answer).toContain("hello");
  // The last chunk, of size 0, says that an answer is complete.
  expect(answer).not.toEndWith("0\r\n\r\n");
  expect(fixture.controller.status.requests.running).toBe(0);
});

test("forward keeps what belongs to one connection from the other side", async () => {
  let seen = new Headers();
  await using fixture = new ProxyFixture((request) => {
    seen = request.headers;
    return new Response("text", { status: 418, headers: { "x-engine": "1", "keep-alive": "timeout=5" } });
  });
  const answer = await raw(
    fixture.port,
    "POST /a?b=c HTTP/1.1\r\nHost: example:1\r\nConnection: close, x-private\r\nX-Private: 1\r\nTE: trailers\r\nX-Public: 2\r\nContent-Length: 0\r\n\r\n",
  );
  expect(answer).toStartWith("HTTP/1.1 418 ");
  expect(answer.toLowerCase()).toContain("x-engine: 1");
  expect(answer.toLowerCase()).not.toContain("keep-alive: timeout");
  expect(seen.get("x-public")).toBe("2");
  expect(seen.get("x-private")).toBeNull();
  expect(seen.get("te")).toBeNull();
  expect(seen.get("x-forwarded-host")).toBe("example:1");
  expect(seen.get("x-forwarded-for")).toBe("127.0.0.1");
});

test("forward passes compressed content and redirects on as they are", async () => {
  const content = Bun.gzipSync(Buffer.from("text"));
  await using fixture = new ProxyFixture((request) =>
    request.url.endsWith("/zip")
      ? new Response(content, { headers: { "content-encoding": "gzip" } })
      : new Response(null, { status: 302, headers: { location: "http://192.0.2.1/" } }),
  );
  expect(await (await fixture.fetch("/zip")).text()).toBe("text");
  const redirect = await fixture.fetch("/away", { redirect: "manual" });
  expect([redirect.status, redirect.headers.get("location")]).toEqual([302, "http://192.0.2.1/"]);
});

/** An engine that speaks TCP, to see how much it can send and receives. */
class RawEngine implements AsyncDisposable {
  readonly #server = createServer();
  readonly #sockets = new Set<Socket>();

  constructor(answer: (socket: Socket) => void) {
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("error", () => undefined);
      socket.once("data", () => answer(socket));
    });
  }

  async url(): Promise<URL> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    const address = this.#server.address();
    return new URL(`http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }
}

const endlessBytes = 64 * MiB;
/** More than the buffers of four sockets hold. */
const bufferedBytes = 32 * MiB;

/** Writes until the other side takes no more; resolves with the bytes that it took once that has not changed for a while. */
async function fill(socket: Socket): Promise<number> {
  const piece = Buffer.alloc(64 * 1024, "a");
  let written = 0;
  const write = () => {
    while (written < endlessBytes) {
      written += piece.length;
      if (!socket.write(piece)) return void socket.once("drain", write);
    }
  };
  write();
  for (let before = -1; before !== written; await Bun.sleep(150)) before = written;
  return written;
}

test("forward takes an answer no faster than the client reads it", async () => {
  const taken = Promise.withResolvers<number>();
  await using engine = new RawEngine((socket) => {
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${endlessBytes}\r\n\r\n`);
    void fill(socket).then(taken.resolve);
  });
  await using fixture = new ProxyFixture(await engine.url());
  const client = connect(fixture.port, "127.0.0.1", () =>
    client.write("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"),
  );
  client.once("data", () => client.pause());
  expect(await taken.promise).toBeLessThan(bufferedBytes);
  client.destroy();
});

test("forward takes a request no faster than the engine reads it", async () => {
  await using engine = new RawEngine((socket) => socket.pause());
  await using fixture = new ProxyFixture(await engine.url());
  const client = connect(fixture.port, "127.0.0.1");
  client.on("error", () => undefined);
  client.write(`POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${endlessBytes}\r\n\r\n`);
  expect(await fill(client)).toBeLessThan(bufferedBytes);
  client.destroy();
});
