/** Requests to the server, with the token of this tab. */

const tokenKey = "camem-token";
/** The server sends a heartbeat every 15 seconds. */
const silenceMs = 60_000;

/** The server refused the token. */
export class RefusedError extends Error {}

export const hasToken = () => sessionStorage.getItem(tokenKey) !== null;

/** @param {string} token */
export const keepToken = (token) => sessionStorage.setItem(tokenKey, token);

export const forgetToken = () => sessionStorage.removeItem(tokenKey);

/** The folder of `camem/`, which a proxy may have moved below another path. */
const base = new URL("..", import.meta.url);

/**
 * @param {string} path
 * @param {RequestInit} [options]
 */
export async function request(path, options = {}) {
  const token = sessionStorage.getItem(tokenKey);
  const headers = token === null ? {} : { authorization: `Bearer ${token}` };
  const response = await fetch(new URL(path, base), { ...options, headers, cache: "no-store" });
  if (response.ok) return response;
  const message = await messageOf(response);
  throw response.status === 401 ? new RefusedError(message) : new Error(message);
}

/** @param {Response} response */
async function messageOf(response) {
  const text = await response.text();
  try {
    return String(JSON.parse(text).error.message);
  } catch {
    return `the server answered ${response.status}`;
  }
}

/**
 * @param {"GET" | "POST"} method
 * @param {string} path
 * @param {Readonly<Record<string, string>>} [query]
 */
export async function requestJson(method, path, query = {}) {
  const response = await request(`${path}?${new URLSearchParams(query)}`, { method });
  return response.json();
}

/**
 * Reads server-sent events until the stream ends. The browser's `EventSource` cannot send the token.
 *
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} body
 * @param {AbortController} connection aborted when the server is silent for too long
 * @param {(block: string) => void} onBlock called with the lines of each event or heartbeat
 */
export async function readEvents(body, connection, onBlock) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const timer = setTimeout(() => connection.abort(), silenceMs);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop() ?? "";
    blocks.forEach(onBlock);
  }
}
