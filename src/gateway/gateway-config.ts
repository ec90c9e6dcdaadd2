/** The gateway's configuration: the file with its defaults, and with its references checked. */

import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { CamemError, formatValue, messageOf } from "../errors.ts";
import { parseDuration } from "../options/durations.ts";
import { parseSize } from "../options/sizes.ts";
import { checkRules } from "../process/rules.ts";
import { type ListenAddress, parseListenAddress } from "../proxy/listen.ts";
import { parseUpstream } from "../proxy/upstream.ts";
import { parseLadder } from "../run/ladder.ts";
import type { IdleRung } from "../server/engine/idle-sleep.ts";
import { splitCommand } from "./command-line.ts";
import { type EngineEntry, GatewayFile } from "./file-schema.ts";
import { type Fault, PositionedYaml } from "./positioned-yaml.ts";

/** How an engine comes into being. */
export type EngineOrigin =
  | { readonly kind: "command"; readonly command: readonly [string, ...string[]]; readonly upstream: string }
  | { readonly kind: "url"; readonly url: URL; readonly api: "vllm" | "sglang" }
  | { readonly kind: "socket"; readonly path: string; readonly upstream: URL };

/** One engine of the file. */
export interface EngineConfig {
  readonly name: string;
  readonly origin: EngineOrigin;
  /** Other names that requests use. */
  readonly models: readonly string[];
  readonly devices: readonly number[];
  /** Bytes on each device; undefined where the file does not say. */
  readonly memoryBytes: number | undefined;
  readonly ladder: readonly IdleRung[];
  readonly preload: boolean;
  readonly readyPath: string | undefined;
  readonly readyDeadlineMs: number;
  readonly onTouch: "wake" | "hold" | "fail";
  readonly rules: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly directory: string | undefined;
}

export interface GroupConfig {
  readonly engines: readonly string[];
  readonly swap: boolean;
  readonly exclusive: boolean;
  readonly persistent: boolean;
}

export interface GatewayConfig {
  readonly listen: ListenAddress;
  readonly engines: readonly EngineConfig[];
  readonly groups: readonly GroupConfig[];
  readonly holdDeadlineMs: number;
  readonly drainDeadlineMs: number;
  readonly stopDeadlineMs: number;
  readonly minimumResidencyMs: number;
  readonly hostBudgetBytes: number | undefined;
  readonly spillFolder: string | undefined;
  readonly bodyLimitBytes: number;
}

/** Stands for the port that the gateway chooses for an engine. */
export const portMark = "$" + "{PORT}";

const defaults = {
  listen: "127.0.0.1:8000",
  upstream: `http://127.0.0.1:${portMark}`,
  readyDeadlineMs: 600_000,
  holdDeadlineMs: 300_000,
  drainDeadlineMs: 30_000,
  stopDeadlineMs: 30_000,
  minimumResidencyMs: 1_000,
  bodyLimitBytes: 64 * 2 ** 20,
} as const;

type Environment = Readonly<Record<string, string | undefined>>;

/** @throws CamemError `INVALID_CONFIG` with the place of each fault */
export function readGatewayFile(path: string, environment: Environment = process.env): GatewayConfig {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw new CamemError("INVALID_CONFIG", `cannot read ${formatValue(path)}: ${messageOf(cause)}`, {
      cause,
    });
  }
  return parseGatewayFile(text, basename(path), environment);
}

/**
 * @param name the name of the file in messages
 * @throws CamemError `INVALID_CONFIG` with the place of each fault
 */
export function parseGatewayFile(text: string, name: string, environment: Environment): GatewayConfig {
  const yaml = new PositionedYaml(text, name);
  const file = yaml.read<GatewayFile>(GatewayFile);
  const faults: Fault[] = [];
  const check = <T>(path: Fault["path"], resolve: () => T): T | undefined => {
    try {
      return resolve();
    } catch (error) {
      if (!(error instanceof CamemError)) throw error;
      faults.push({ path: placeOf(path, error.property), message: error.message });
      return undefined;
    }
  };
  /** The place of a property, which the file may state for every engine. */
  const placeOf = (path: Fault["path"], property: string | undefined): Fault["path"] => {
    const [, engine] = path;
    if (property === undefined || engine === undefined) return path;
    const isOwn = Object.hasOwn(file.engines[engine] ?? {}, property);
    return isOwn ? [...path, property] : Object.hasOwn(file, property) ? [property] : path;
  };
  const listen = check(["listen"], () =>
    parseListenAddress(String(file.listen ?? defaults.listen), "listen"),
  );
  const engines = Object.entries(file.engines).flatMap(
    ([engine, entry]) =>
      check(["engines", engine], () => resolveEngine(engine, entry, file, environment)) ?? [],
  );
  yaml.refuse([...faults, ...nameFaults(file), ...groupFaults(file)]);
  return {
    listen: listen ?? parseListenAddress(defaults.listen, "listen"),
    engines,
    groups: Object.values(file.groups ?? {}).map((group) => ({
      engines: group.engines,
      swap: group.swap ?? true,
      exclusive: group.exclusive ?? false,
      persistent: group.persistent ?? false,
    })),
    holdDeadlineMs: parseDuration(file.hold_deadline) ?? defaults.holdDeadlineMs,
    drainDeadlineMs: parseDuration(file.drain_deadline) ?? defaults.drainDeadlineMs,
    stopDeadlineMs: parseDuration(file.stop_deadline) ?? defaults.stopDeadlineMs,
    minimumResidencyMs: parseDuration(file.minimum_residency) ?? defaults.minimumResidencyMs,
    hostBudgetBytes: bytesOf(file.host_budget),
    spillFolder: file.spill_dir,
    bodyLimitBytes: bytesOf(file.body_limit) ?? defaults.bodyLimitBytes,
  };
}

function resolveEngine(
  name: string,
  entry: EngineEntry,
  file: GatewayFile,
  environment: Environment,
): EngineConfig {
  if (!/^[\w.:/-]{1,128}$/.test(name))
    throw fault(`the name ${formatValue(name)} must be of letters, digits and . : / _ -`);
  const origin = resolveOrigin(entry, environment);
  checkRules(entry.rules ?? []);
  return {
    name,
    origin,
    models: entry.models ?? [],
    devices: entry.devices ?? [0],
    memoryBytes: bytesOf(entry.memory),
    ladder: resolveLadder(entry, file),
    preload: entry.preload ?? false,
    readyPath: entry.ready_path,
    readyDeadlineMs: parseDuration(entry.ready_deadline) ?? defaults.readyDeadlineMs,
    onTouch: entry.on_touch ?? "wake",
    rules: entry.rules ?? [],
    environment: Object.fromEntries(
      Object.entries(entry.environment ?? {}).map(([key, value]) => [key, substitute(value, environment)]),
    ),
    directory: entry.directory,
  };
}

function resolveOrigin(entry: EngineEntry, environment: Environment): EngineOrigin {
  const refuse = (names: readonly (keyof EngineEntry)[], kind: string) => {
    const given = names.find((each) => entry[each] !== undefined);
    if (given !== undefined)
      throw fault(`an engine with ${kind} has no ${given}: camem does not start it`, given);
  };
  if (entry.url !== undefined) {
    refuse(["upstream", "ttl", "rules", "on_touch", "environment", "directory"], "url");
    return { kind: "url", url: parseUpstream(entry.url, "url"), api: entry.api ?? "vllm" };
  }
  if (entry.api !== undefined) throw fault("only an engine with url has an api", "api");
  if (entry.socket !== undefined) {
    refuse(["ttl", "rules", "on_touch", "environment", "directory"], "socket");
    if (entry.upstream === undefined)
      throw fault("an engine with socket needs upstream, the address of its server", "socket");
    return {
      kind: "socket",
      path: substitute(entry.socket, environment),
      upstream: parseUpstream(substitute(entry.upstream, environment), "upstream"),
    };
  }
  const { command = "" } = entry;
  const parts = Array.isArray(command) ? command : splitCommand(command);
  if (parts === undefined) throw fault("command has a quote that is not closed", "command");
  const [program, ...args] = parts.map((part) => substitute(part, environment));
  if (program === undefined) throw fault("command is empty", "command");
  const upstream = substitute(entry.upstream ?? defaults.upstream, environment);
  parseUpstream(upstream.replaceAll(portMark, "1"), "upstream");
  return { kind: "command", command: [program, ...args], upstream };
}

function resolveLadder(entry: EngineEntry, file: GatewayFile): IdleRung[] {
  const canStop = entry.command !== undefined;
  const idle = entry.idle ?? file.idle;
  const rungs = idle === undefined ? [] : parseLadder(idle, "idle");
  const ttl = canStop ? (entry.ttl ?? file.ttl) : undefined;
  if (ttl !== undefined && rungs.some(({ level }) => level === 2))
    throw fault("ttl and level 2 in idle both end the program; give one of them", "idle");
  if (!canStop && entry.idle !== undefined && rungs.some(({ level }) => level === 2))
    throw fault("level 2 ends the program, but camem does not start this engine; use level 1", "idle");
  const after = ttl === undefined ? 0 : (parseDuration(ttl) ?? 0);
  const usable = rungs.filter(({ level }) => canStop || level === 1);
  const latest = Math.max(0, ...usable.map((rung) => parseDuration(rung.after) ?? 0));
  if (after > 0 && after <= latest)
    throw fault("ttl must be longer than every time in idle: the engine sleeps before it ends", "ttl");
  return after > 0 ? [...usable, { after, level: 2 }] : usable;
}

/** Replaces `${NAME}` by variables of the environment, but for the port, which is chosen when the program starts. */
function substitute(text: string, environment: Environment): string {
  return text.replace(/\$\{(\w+)\}/g, (whole, name: string) => {
    if (name === "PORT") return whole;
    const value = environment[name];
    if (value === undefined) throw fault(`the environment has no variable ${name} for ${whole}`);
    return value;
  });
}

/** Names by which requests ask for engines must tell them apart. */
function nameFaults({ engines }: GatewayFile): Fault[] {
  const owners = new Map(Object.keys(engines).map((name) => [name, name]));
  return Object.entries(engines).flatMap(([engine, { models = [] }]) =>
    models.flatMap((model, index) => {
      const owner = owners.get(model);
      owners.set(model, owner ?? engine);
      if (owner === undefined) return [];
      const path = ["engines", engine, "models", index];
      return [{ path, message: `the name ${formatValue(model)} already belongs to the engine ${owner}` }];
    }),
  );
}

function groupFaults({ engines, groups = {} }: GatewayFile): Fault[] {
  const groupOf = new Map<string, string>();
  return Object.entries(groups).flatMap(([group, { engines: members }]) =>
    members.flatMap((member, index) => {
      const path = ["groups", group, "engines", index];
      if (!Object.hasOwn(engines, member))
        return [
          {
            path,
            message: `there is no engine ${formatValue(member)}; the engines are ${Object.keys(engines).join(", ")}`,
          },
        ];
      const other = groupOf.get(member);
      groupOf.set(member, group);
      return other === undefined
        ? []
        : [{ path, message: `the engine ${formatValue(member)} is already in the group ${other}` }];
    }),
  );
}

function bytesOf(size: number | string | undefined): number | undefined {
  return typeof size === "string" ? parseSize(size) : size;
}

function fault(message: string, property?: string): CamemError {
  return new CamemError("INVALID_CONFIG", message, property === undefined ? {} : { property });
}
