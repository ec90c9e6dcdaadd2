/** The gateway's file: what it may say, and where its faults are. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { Value } from "typebox/value";
import { splitCommand } from "../../src/gateway/command-line.ts";
import { gatewayJsonSchema } from "../../src/gateway/file-schema.ts";
import { parseGatewayFile, readGatewayFile } from "../../src/gateway/gateway-config.ts";
import { failureOf } from "../support/device.ts";

const environment = { MODELS: "/models" };
const parse = (text: string) => parseGatewayFile(text, "camem.yaml", environment);
const port = "$" + "{PORT}";

async function faults(text: string): Promise<string[]> {
  const { code, message } = await failureOf(() => parse(text));
  expect(code).toBe("INVALID_CONFIG");
  return message.split("\n");
}

test("parseGatewayFile applies defaults and replaces variables", () => {
  const { engines, listen, holdDeadlineMs } = parse(`
idle: 5m:1
ttl: 1h
engines:
  qwen:
    command: llama-server -m '$\{MODELS}/a b.gguf' --port ${port}
    memory: 2GiB
  vllm: { url: "http://127.0.0.1:9000/base", api: sglang }
`);
  expect(listen).toEqual({ hostname: "127.0.0.1", port: 8000 });
  expect(holdDeadlineMs).toBe(300_000);
  expect(engines[0]).toMatchObject({
    name: "qwen",
    origin: {
      kind: "command",
      command: ["llama-server", "-m", "/models/a b.gguf", "--port", port],
      upstream: `http://127.0.0.1:${port}`,
    },
    memoryBytes: 2 * 2 ** 30,
    devices: [0],
    ladder: [
      { after: "5m", level: 1 },
      { after: 3_600_000, level: 2 },
    ],
  });
  // The gateway cannot end an engine that it has not started.
  expect(engines[1]).toMatchObject({
    origin: { kind: "url", api: "sglang" },
    ladder: [{ after: "5m", level: 1 }],
  });
});

test("parseGatewayFile tells line and column of every fault", async () => {
  expect(
    await faults(`listen: 99999
engines:
  qwen:
    command: llama-server
    idel: 5m:1
    devices: [0, -1]
  other: {}
groups:
  g: { engines: [] }
`),
  ).toEqual([
    "camem.yaml:1:1: listen is 99999; it must be a port or an address, such as :8000 or 127.0.0.1:8000",
    'camem.yaml:5:5: engines.qwen has no "idel"; did you mean idle?',
    "camem.yaml:6:18: engines.qwen.devices.1 is -1; it must be a device number, 0 or above",
    "camem.yaml:7:3: engines.other has none of command, url, socket; give exactly one",
    "camem.yaml:9:8: groups.g.engines is an array; it must be a list of engines",
  ]);
});

test.each([
  ["", "camem.yaml:1:1: the file is null; it must be engines and settings"],
  ["engines: {}", "camem.yaml:1:1: engines is an object; it must be engines by name"],
  ["engines: *none", "camem.yaml: Unresolved alias"],
  ["engines: [", "camem.yaml:1:11: Flow sequence in block collection"],
  ["a: 1\na: 2\n", "camem.yaml:2:1: Map keys must be unique"],
  ["engines:\n  a: { command: x, idle: 5x }", 'engines.a.idle is "5x"; it must be times and levels'],
  [
    "engines:\n  a: { command: x, url: http://b }",
    "camem.yaml:2:3: engines.a has command and url of command, url, socket; give exactly one",
  ],
  ["engines:\n  a: { memory: 1GiB }", "engines.a has none of command, url, socket; give exactly one"],
  [
    "engines:\n  a: { command: x, environment: { A: 1 } }",
    "environment.A is 1; it must be a text: quote numbers",
  ],
  [
    "engines:\n  a: { command: x, idle: '5:1' }",
    'camem.yaml:2:20: idle is "5:1"; the time "5" must be a number with',
  ],
  ["engines:\n  a: { command: x }\nidle: 1m:1,1s:2", "camem.yaml:3:1: idle is"],
  ["engines:\n  a: { url: ftp://b }", 'camem.yaml:2:8: engines.a.url is "ftp://b"; it must be an address'],
  ["engines:\n  a: { url: http://b, ttl: 5m }", "an engine with url has no ttl"],
  ["engines:\n  a: { url: http://b, idle: 5m:2 }", "level 2 ends the program"],
  ["engines:\n  a: { command: x, idle: 5m:2, ttl: 1h }", "give one of them"],
  ["engines:\n  a: { socket: /s }", "needs upstream"],
  [
    "engines:\n  a: { command: x, idle: 5m:1, ttl: 1m }",
    "camem.yaml:2:32: ttl must be longer than every time in idle",
  ],
  ["idle: 5m:1\nengines:\n  a: { command: x, ttl: 5m }", "ttl must be longer"],
  ["engines:\n  a: { command: x, api: vllm }", "only an engine with url has an api"],
  ['engines:\n  a: { command: "x \'y" }', "a quote that is not closed"],
  ['engines:\n  a: { command: "x $' + '{NOTHING}" }', "no variable NOTHING"],
  ["engines:\n  a: { command: x, rules: ['size>=1: lose'] }", "camem.yaml:2:20: the rule"],
  ["engines:\n  'a b': { command: x }", "must be of letters"],
  [
    "engines:\n  a: { command: x, models: [b] }\n  b: { command: x }",
    'camem.yaml:2:29: the name "b" already belongs to the engine b',
  ],
  [
    "engines:\n  a: { command: x }\ngroups: { g: { engines: [b] } }",
    'camem.yaml:3:26: there is no engine "b"; the engines are a',
  ],
  [
    "engines:\n  a: { command: x }\ngroups: { g: { engines: [a] }, h: { engines: [a] } }",
    'camem.yaml:3:47: the engine "a" is already in the group g',
  ],
])("parseGatewayFile refuses %p", async (text, message) => {
  expect((await faults(text)).join("\n")).toContain(message);
});

test("readGatewayFile accepts the example", () => {
  const { engines, groups } = readGatewayFile(
    join(import.meta.dir, "../../examples/gateway/camem.yaml"),
    environment,
  );
  expect(engines.map(({ origin }) => origin.kind)).toEqual(["command", "command", "command", "url"]);
  expect(groups).toHaveLength(1);
});

test("readGatewayFile names the file that it cannot read", async () => {
  expect((await failureOf(() => readGatewayFile("/nothing/camem.yaml"))).message).toContain(
    "/nothing/camem.yaml",
  );
});

test("gatewayJsonSchema accepts what parseGatewayFile accepts", () => {
  const schema = JSON.parse(gatewayJsonSchema());
  expect(Value.Check(schema, { engines: { a: { command: "x" } } })).toBe(true);
  expect(Value.Check(schema, { engines: { a: { command: "x", url: "http://b" } } })).toBe(false);
  expect(Value.Check(schema, { engines: { a: { comand: "x" } } })).toBe(false);
  expect(schema.properties.engines.patternProperties["^.*$"].properties.idle.description).toContain("5m:1");
});

test.each([
  ["a  b\tc", ["a", "b", "c"]],
  [`a 'b "c' "d 'e"`, ["a", 'b "c', "d 'e"]],
  ["a\\ b \\\n c", ["a b", "c"]],
  ["a ''", ["a", ""]],
  [`a"b"c`, ["abc"]],
  ["", []],
  ["a 'b", undefined],
])("splitCommand splits %p", (text, words) => {
  expect(splitCommand(text)).toEqual(words);
});
