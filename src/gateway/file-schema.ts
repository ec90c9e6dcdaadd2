/** The schema of the gateway's file. It is JSON Schema, so that editors can check and complete the file. */

import Type, { type Static } from "typebox";

const closed = { additionalProperties: false } as const;

const Duration = Type.Union(
  [Type.Number({ minimum: 0 }), Type.String({ pattern: "^\\s*\\d+(\\.\\d+)?\\s*(ms|s|m|min|h|d)\\s*$" })],
  { description: 'milliseconds or a time such as "30s", "5m" or "1h"' },
);

const Size = Type.Union(
  [
    Type.Integer({ minimum: 0 }),
    Type.String({ pattern: "^\\s*\\d+(\\.\\d+)?\\s*(B|KiB|MiB|GiB|TiB)?\\s*$" }),
  ],
  { description: 'bytes or a size such as "8GiB"' },
);

const Ladder = Type.String({
  pattern: "^\\s*[^:,]+:\\s*[12]\\s*(,\\s*[^:,]+:\\s*[12]\\s*)*$",
  description: 'times and levels, such as "5m:1" or "5m:1,1h:2"',
});

const Url = Type.String({ pattern: "^https?://", description: "an address such as http://127.0.0.1:8080" });

const Name = Type.String({
  pattern: "^[\\w.:/-]{1,128}$",
  description: "a name of letters, digits and . : / _ -",
});

const Path = Type.String({ pattern: "^/", description: "a path such as /health" });

const Text = Type.String({ minLength: 1, description: "a text" });

const Command = Type.Union([Text, Type.Array(Text, { minItems: 1 })], {
  description: "a program with its arguments, as a text or a list",
});

const Flag = Type.Boolean({ description: "true or false" });

const EngineEntry = Type.Object(
  {
    /** Starts the engine with the library preloaded. `${PORT}` stands for a free port. */
    command: Type.Optional(Command),
    /** The address of a server with sleep routes that runs already. */
    url: Type.Optional(Url),
    /** The control socket of an engine that runs already under the library. */
    socket: Type.Optional(Text),
    /** The sleep routes of `url`. */
    api: Type.Optional(Type.Enum(["vllm", "sglang"], { description: '"vllm" or "sglang"' })),
    /** The engine's own server; by default `http://127.0.0.1:${PORT}`, or `url`. */
    upstream: Type.Optional(Text),
    /** Other names by which requests may ask for this engine. */
    models: Type.Optional(Type.Array(Name, { description: "a list of names" })),
    /** The devices that the engine uses; by default the first. */
    devices: Type.Optional(
      Type.Array(Type.Integer({ minimum: 0, description: "a device number, 0 or above" }), {
        minItems: 1,
        description: "a list of device numbers",
      }),
    ),
    /** Device memory that the engine takes on each of its devices, before it has been measured. */
    memory: Type.Optional(Size),
    /** When the engine sleeps by itself. */
    idle: Type.Optional(Ladder),
    /** After this time without requests the program is ended, and started again for the next request. */
    ttl: Type.Optional(Duration),
    /** Start the engine with the gateway. */
    preload: Type.Optional(Flag),
    ready_path: Type.Optional(Path),
    ready_deadline: Type.Optional(Duration),
    on_touch: Type.Optional(Type.Enum(["wake", "hold", "fail"], { description: '"wake", "hold" or "fail"' })),
    rules: Type.Optional(Type.Array(Text, { description: "a list of rules" })),
    environment: Type.Optional(
      Type.Record(Type.String(), Type.String({ description: 'a text: quote numbers, as in "1"' }), {
        description: "texts by variable name",
      }),
    ),
    directory: Type.Optional(Text),
  },
  {
    ...closed,
    description: "an engine with exactly one of command, url and socket",
    oneOf: ["command", "url", "socket"].map((name) => ({ required: [name] })),
  },
);

const Group = Type.Object(
  {
    engines: Type.Array(Name, { minItems: 1, description: "a list of engines" }),
    /** At most one engine of the group is awake; by default true. */
    swap: Type.Optional(Flag),
    /** While one of its engines is awake, engines outside of the group sleep; by default false. */
    exclusive: Type.Optional(Flag),
    /** Its engines never sleep to make room for others; by default false. */
    persistent: Type.Optional(Flag),
  },
  { ...closed, description: "a group with engines" },
);

/** The whole file. */
export const GatewayFile = Type.Object(
  {
    listen: Type.Optional(
      Type.Union([Type.Integer({ minimum: 0, maximum: 65535 }), Type.String({ minLength: 1 })], {
        description: "a port or an address, such as :8000 or 127.0.0.1:8000",
      }),
    ),
    engines: Type.Record(Type.String(), EngineEntry, { minProperties: 1, description: "engines by name" }),
    groups: Type.Optional(Type.Record(Type.String(), Group, { description: "groups by name" })),
    /** For every engine that has none of its own. */
    idle: Type.Optional(Ladder),
    /** For every engine with a command that has none of its own. */
    ttl: Type.Optional(Duration),
    hold_deadline: Type.Optional(Duration),
    drain_deadline: Type.Optional(Duration),
    stop_deadline: Type.Optional(Duration),
    minimum_residency: Type.Optional(Duration),
    /** The most page-locked host memory for backups of one engine. */
    host_budget: Type.Optional(Size),
    /** The folder for backups beyond the host budget. */
    spill_dir: Type.Optional(Text),
    /** The largest body of a request, which is read as a whole to find its model. */
    body_limit: Type.Optional(Size),
  },
  { ...closed, description: "engines and settings" },
);

export type GatewayFile = Static<typeof GatewayFile>;
export type EngineEntry = Static<typeof EngineEntry>;

/** The schema as a document, for editors. */
export function gatewayJsonSchema(): string {
  const schema = {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "camem gateway",
    ...GatewayFile,
  };
  return JSON.stringify(schema, null, 2);
}
