/** Random requests as a client, a browser, a proxy or an attacker sends them, and whether each may change the engine. */

import type { Random } from "../fuzz/random.ts";

export const token = "the-secret-of-the-server";

/** How a server is set up. */
export interface Setup {
  readonly access: "token" | "loopback" | "both";
  /** `routes` compares the path as it was sent; `fetch` sees it normalised. */
  readonly mount: "routes" | "fetch";
  readonly port: number;
}

/** What goes over the socket. */
export interface FuzzRequest {
  readonly text: string;
  /** True when the request is cut short, so no answer may come. */
  readonly isCut: boolean;
  /** Why it must change nothing; undefined when it may. */
  readonly harmless: string | undefined;
}

/** Routes that change the engine, their methods, and parameters that they accept. */
const changes: readonly (readonly [path: string, methods: readonly string[], valid: readonly Params[]])[] = [
  [
    "/sleep",
    ["POST"],
    [{}, { level: 0 }, { level: 1 }, { level: 2 }, { tags: ["kv_cache"] }, { offload_tags: ["weights"] }],
  ],
  ["/wake_up", ["POST"], [{}, { tags: ["weights"] }]],
  ["/pause", ["POST"], [{}, { mode: "keep" }]],
  ["/resume", ["POST"], [{}]],
  ["/release_kv_cache_memory", ["POST"], [{}]],
  ["/collective_rpc", ["POST"], [{ method: "reload_weights" }]],
  ["/reset_prefix_cache", ["POST"], [{}]],
  ["/release_memory_occupation", ["GET", "POST"], [{}, { tags: ["kv_cache", "cuda_graph"] }]],
  ["/resume_memory_occupation", ["GET", "POST"], [{}]],
  ["/flush_cache", ["GET", "POST"], [{}]],
  ["/pause_generation", ["POST"], [{}, { mode: "abort" }]],
  ["/continue_generation", ["POST"], [{}]],
  ["/update_weights_from_disk", ["POST"], [{ model_path: "model" }]],
  ["/abort_request", ["POST"], [{ rid: "r" }]],
  ["/camem/confirm_weights", ["POST"], [{}]],
];

const reads = [
  "/is_sleeping",
  "/load",
  "/version",
  "/server_info",
  "/camem/usage",
  "/camem",
  "/camem/plan",
  "/health",
];

type Params = Readonly<Record<string, unknown>>;

const invalidParams: readonly Params[] = [
  { levl: 2 },
  { tag: "weights" },
  { level: 3, mode: "kill" },
  { mode: "kill", model_path: "" },
  { tags: ["weigths"], method: "x" },
  { model: "another" },
  { __proto__x: 1 },
];

const methods = [
  "GET",
  "POST",
  "POST",
  "POST",
  "HEAD",
  "PUT",
  "DELETE",
  "PATCH",
  "OPTIONS",
  "TRACE",
  "FOO",
  "post",
];

/** Ways to write a path that a server may read as `path`, but a proxy's rule may not; and plain mistakes. */
const detours: readonly ((path: string) => string)[] = [
  (path) => `${path}/`,
  (path) => `/${path}`,
  (path) => `/v1/..${path}`,
  (path) => `/v1/..\\..${path.replaceAll("/", "\\")}`,
  (path) => `/v1/%2e%2e${path}`,
  (path) => `/.${path}`,
  (path) => path.replace(/[a-z]/, (letter) => `%${letter.charCodeAt(0).toString(16)}`),
  (path) => path.toUpperCase(),
  (path) => `${path}%00`,
  (path) => `${path};x`,
  (path) => `${path}#x`,
  (path) => `${path}.json`,
  (path) => `http://127.0.0.1${path}`,
  (path) => `http://evil.example${path}`,
  (path) => path.slice(1),
  (path) => path.slice(0, -1),
  () => "*",
  () => `/${"x".repeat(3000)}`,
  () => "/\u00e9\u0000\u0007",
];

interface Header {
  readonly lines: readonly string[];
  /** Why a server of this access refuses or ignores it; undefined when it may pass. */
  readonly refused?: (setup: Setup, method: string) => string | undefined;
}

const hasToken = ({ access }: Setup) => access !== "loopback";
const isLocal = ({ access }: Setup) => access !== "token";
const needsToken = (setup: Setup) => (hasToken(setup) ? "no token" : undefined);
const onlyLocal = (why: string) => (setup: Setup) => (isLocal(setup) ? why : undefined);
const always = (why: string) => () => why;

const authorizations: readonly Header[] = [
  { lines: [`Authorization: Bearer ${token}`] },
  { lines: [`authorization: bearer ${token}`] },
  { lines: [], refused: needsToken },
  { lines: ["Authorization: Bearer"], refused: needsToken },
  { lines: [`Authorization: Bearer ${token.slice(1)}`], refused: needsToken },
  { lines: [`Authorization: Bearer ${token}x`], refused: needsToken },
  { lines: [`Authorization: Basic ${token}`], refused: needsToken },
  { lines: [`Authorization: ${token}`], refused: needsToken },
  { lines: [`X-Authorization: Bearer ${token}`, `Cookie: token=${token}`], refused: needsToken },
];

const hosts: readonly ((port: number) => Header)[] = [
  (port) => ({ lines: [`Host: 127.0.0.1:${port}`] }),
  () => ({ lines: ["Host: localhost"] }),
  ...["evil.example", "127.0.0.1.evil.example", "localhost.evil", "[", "a b", "%zz", "x:99999", ""].map(
    (host) => () => ({ lines: [`Host: ${host}`], refused: onlyLocal("another host") }),
  ),
  () => ({ lines: [], refused: onlyLocal("no host") }),
];

const same = (port: number) => `http://127.0.0.1:${port}`;

const senders: readonly ((port: number) => Header)[] = [
  () => ({ lines: [] }),
  () => ({ lines: [] }),
  () => ({ lines: ["User-Agent: curl/8", "Accept: */*"] }),
  // A POST of the server's own page.
  (port) => ({
    lines: [
      `Origin: ${same(port)}`,
      "Sec-Fetch-Site: same-origin",
      "Sec-Fetch-Mode: cors",
      "Sec-Fetch-Dest: empty",
    ],
    refused: (_setup, method) => (method === "POST" ? undefined : "a browser, but no POST"),
  }),
  // The fetch of Node.
  () => ({
    lines: ["Sec-Fetch-Mode: cors"],
    refused: (_setup, method) => (method === "POST" ? undefined : "a browser, but no POST"),
  }),
  ...[
    ["Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Purpose: prefetch"],
    ["Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Purpose: prefetch;prerender"],
    ["Sec-Fetch-Site: none", "Sec-Fetch-User: ?1"],
    ["SEC-FETCH-SITE: cross-site", "sec-fetch-mode: no-cors", "Sec-Fetch-Dest: image"],
    ["Sec-Fetch-Site: same-site", "Origin: http://127.0.0.1:1"],
    ["Sec-Fetch-Site: cross-site", "Origin: https://evil.example", "Content-Type: text/plain"],
    ["Sec-Fetch-Mode: navigate"],
    ["Sec-Fetch-Mode: no-cors"],
    ["Sec-Fetch-Storage-Access: active"],
    ["Purpose: prefetch"],
    ["Sec-Purpose: prefetch;anonymous-client-ip"],
    ["Sec-Fetch-Site:"],
  ].map((lines) => () => ({ lines, refused: always("a browser") })),
  ...[
    ["X-Forwarded-For: 10.0.0.7"],
    ["Forwarded: for=10.0.0.7"],
    ["Via: 1.1 edge"],
    ["X-Real-IP: 10.0.0.7"],
    ["x-forwarded-anything: x"],
    ["Origin: https://evil.example"],
    ["Origin: null"],
  ].map((lines) => () => ({ lines, refused: onlyLocal("not this machine's client") })),
];

interface Body {
  readonly query: string;
  readonly headers: readonly string[];
  readonly content: string;
  readonly wrong?: string;
}

function queryOf(params: Params): string {
  const pairs = Object.entries(params).flatMap(([name, value]) =>
    [value].flat().map((one) => `${name}=${encodeURIComponent(String(one))}`),
  );
  return pairs.length === 0 ? "" : `?${pairs.join("&")}`;
}

const json = (content: string, wrong?: string): Body => ({
  query: "",
  headers: ["Content-Type: application/json", `Content-Length: ${content.length}`],
  content,
  ...(wrong !== undefined && { wrong }),
});

const brokenBodies: readonly Body[] = [
  json("{", "no JSON"),
  json("[1]", "no object"),
  json('"level"', "no object"),
  json('{"__proto__": {"level": 2}}', "an unknown key"),
  json(`{"level":1,"x":"${"y".repeat(600)}"}`, "too large"),
  { query: "", headers: ["Content-Length: 9"], content: "levl", wrong: "too short" },
  { query: "", headers: ["Content-Length: -1"], content: "", wrong: "no length" },
  { query: "?level=1&level=2", headers: [], content: "", wrong: "twice" },
  { query: "?tags=", headers: [], content: "", wrong: "an empty tag" },
  { query: "?%zz=%", headers: [], content: "", wrong: "an unknown key" },
  {
    query: "",
    headers: ["Transfer-Encoding: chunked"],
    content: '9\r\n{"lev":1}\r\n0\r\n\r\n',
    wrong: "an unknown key",
  },
];

function bodyOf(random: Random, method: string, valid: readonly Params[] | undefined): Body {
  if (valid === undefined || random.oneIn(3)) {
    if (random.oneIn(2)) return random.pick(brokenBodies);
    const params = random.pick(invalidParams);
    const wrong = "wrong parameters";
    return random.oneIn(2)
      ? { query: queryOf(params), headers: ["Content-Length: 0"], content: "", wrong }
      : json(JSON.stringify(params), wrong);
  }
  const params = random.pick(valid);
  if (method === "GET" || random.oneIn(2))
    return { query: queryOf(params), headers: ["Content-Length: 0"], content: "" };
  return json(JSON.stringify(params));
}

/** The path that `fetch` sees: a naive URL parser's. */
function pathSeen(target: string, { mount }: Setup): string {
  const path = target.replace(/^http:\/\/[^/]*/, "");
  if (mount === "routes") return path;
  return URL.parse(path, "http://host")?.pathname ?? path;
}

/** Why a request to this path with this method changes nothing, whoever sends it. */
function pathIsHarmless(target: string, method: string, setup: Setup): string | undefined {
  if (target.includes("#")) return "a fragment";
  const path = pathSeen(target, setup);
  const route = changes.find(([one]) => one === path);
  if (route === undefined) return "no route that changes anything";
  return route[1].includes(method.toUpperCase()) ? undefined : "another method";
}

/** The end of a request that never arrives in full, or rubbish before it. */
function damage(random: Random, text: string): FuzzRequest {
  if (random.oneIn(2))
    return { text: text.slice(0, random.below(text.length)), isCut: true, harmless: "cut" };
  const rubbish = String.fromCharCode(...random.bytes(random.between(1, 40)));
  return { text: `${rubbish}\r\n\r\n`, isCut: true, harmless: "rubbish" };
}

export function randomRequest(random: Random, setup: Setup): FuzzRequest {
  const [path, allowed, valid] = random.oneIn(6)
    ? ([random.pick(reads), ["GET"], undefined] as const)
    : random.pick(changes);
  const method = random.oneIn(2) ? (allowed[0] ?? "POST") : random.pick(methods);
  const target = random.oneIn(3) ? random.pick(detours)(path) : path;
  const body = bodyOf(random, method, valid);
  const authorization = random.pick(authorizations);
  const host = random.oneIn(3)
    ? random.pick(hosts)(setup.port)
    : { lines: [`Host: 127.0.0.1:${setup.port}`] };
  const sender = random.pick(senders)(setup.port);
  const version = random.oneIn(8) ? "HTTP/1.0" : "HTTP/1.1";
  const headers: readonly Header[] = [authorization, host, sender];
  const refusals = headers.map(({ refused }) => refused?.(setup, method.toUpperCase()));
  const harmless =
    refusals.find((why) => why !== undefined) ?? body.wrong ?? pathIsHarmless(target, method, setup);
  const [start, ...rest] = target.split("#");
  const fragment = rest.length > 0 ? `#${rest.join("#")}` : "";
  const lines = [
    `${method} ${start}${body.query}${fragment} ${version}`,
    ...headers.flatMap(({ lines: own }) => own),
    ...body.headers,
    "Connection: close",
  ];
  const text = `${lines.join("\r\n")}\r\n\r\n${body.content}`;
  // A request within the body of one without access has none either.
  if (hasToken(setup) && authorization.refused !== undefined && random.oneIn(10)) {
    const smuggled = `POST /sleep HTTP/1.1\r\nHost: 127.0.0.1:${setup.port}\r\nContent-Length: 0\r\n\r\n`;
    return { text: text.replace("Connection: close\r\n", "") + smuggled, isCut: true, harmless: "smuggled" };
  }
  if (random.oneIn(20)) return damage(random, text);
  return { text, isCut: body.wrong === "too short", harmless };
}
