/** HTTP requests byte for byte as the programs of docs/deploy.md send them. */

import { connect } from "node:net";

export interface Answer {
  readonly status: number;
  readonly body: string;
}

/** Sends raw lines and a body, and reads one response. */
export function send(port: number, lines: readonly string[], body = ""): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  let text = "";
  const socket = connect(port, "127.0.0.1", () => socket.write(`${lines.join("\r\n")}\r\n\r\n${body}`));
  socket.setEncoding("latin1");
  socket.on("error", reject);
  socket.on("data", (data) => {
    text += data;
    const [head = "", ...rest] = text.split("\r\n\r\n");
    const answer = rest.join("\r\n\r\n");
    const length = Number(/^content-length: (\d+)/im.exec(head)?.[1] ?? Number.NaN);
    if (rest.length === 0 || answer.length < length) return;
    socket.destroy();
    resolve({ status: Number(head.split(" ")[1]), body: answer });
  });
  socket.on("close", () => reject(new Error(`closed after ${JSON.stringify(text)}`)));
  return promise;
}

export type Send = (method: string, path: string, body?: string) => Promise<Answer>;

export const json = "Content-Type: application/json";

const client =
  (port: number, headersOf: (method: string, body: string) => readonly string[]): Send =>
  (method, path, body = "") =>
    send(port, [`${method} ${path} HTTP/1.1`, `Host: 127.0.0.1:${port}`, ...headersOf(method, body)], body);

/** Sends like Python's requests, which the router's discovery and the adapters of SGLang and verl use. */
export const requests = (port: number, ...headers: string[]) =>
  client(port, (_method, body) => [
    "User-Agent: python-requests/2.32.3",
    "Accept-Encoding: gzip, deflate",
    "Accept: */*",
    "Connection: keep-alive",
    ...headers,
    ...(body === "" ? [] : [`Content-Length: ${body.length}`, json]),
  ]);

/** Sends like aiohttp, which the router's proxy and kvcached's controller use. */
export const aiohttp = (port: number, ...headers: string[]) =>
  client(port, (method, body) => [
    ...headers,
    "Accept: */*",
    "Accept-Encoding: gzip, deflate",
    "User-Agent: Python/3.12 aiohttp/3.11.11",
    ...(method === "GET" ? [] : [`Content-Length: ${body.length}`]),
    ...(method === "GET" ? [] : [body === "" ? "Content-Type: application/octet-stream" : json]),
  ]);

/** Sends like Go's net/http, which llama-swap's wrapper and llmsnap use. */
export const go = (port: number, ...headers: string[]) =>
  client(port, (method, body) => [
    "User-Agent: Go-http-client/1.1",
    ...(method === "GET" ? [] : [`Content-Length: ${body.length}`]),
    ...headers,
    "Accept-Encoding: gzip",
  ]);

export async function complete(port: number, prompt: string): Promise<[number, string | undefined]> {
  const body = JSON.stringify({ model: "qwen", prompt });
  const response = await fetch(`http://127.0.0.1:${port}/v1/completions`, { method: "POST", body });
  const answer = (await response.json()) as { choices?: { text: string }[] };
  return [response.status, answer.choices?.[0]?.text];
}
