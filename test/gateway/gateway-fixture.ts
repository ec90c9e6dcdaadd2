import { join } from "node:path";
import type { EngineState } from "camem/server";
import { Gateway } from "../../src/gateway/gateway.ts";
import { parseGatewayFile } from "../../src/gateway/gateway-config.ts";
import { connectSocket, connectToRun } from "../../src/run/connect.ts";

const inertLibrary = join(import.meta.dir, `../../native/linux-${process.arch}/libcamem.so`);

/** A gateway in this process. */
export class GatewayFixture implements AsyncDisposable {
  readonly gateway: Gateway;
  readonly reports: string[];

  /** @param preloads false for programs that use no device: they get a library that does nothing */
  static async start(yaml: string, { preloads = false } = {}): Promise<GatewayFixture> {
    const reports: string[] = [];
    const config = parseGatewayFile(`listen: 127.0.0.1:0\n${yaml}`, "camem.yaml", process.env);
    const gateway = await Gateway.start(
      config,
      {
        report: (line) => reports.push(line),
        connect: preloads ? connectToRun : async () => undefined,
        connectSocket,
        ...(!preloads && { library: inertLibrary, connectGraceMs: 0 }),
      },
      { loopbackOnly: true },
    );
    return new GatewayFixture(gateway, reports);
  }

  private constructor(gateway: Gateway, reports: string[]) {
    this.gateway = gateway;
    this.reports = reports;
  }

  fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(new URL(path, this.gateway.url), init);
  }

  /** The answer to a completion. */
  async complete(model: string | undefined, prompt = "once"): Promise<string> {
    const response = await this.fetch("/v1/completions", {
      method: "POST",
      body: JSON.stringify({ model, prompt, max_tokens: 8 }),
    });
    return `${response.status} ${await response.text()}`;
  }

  get states(): Record<string, EngineState> {
    return Object.fromEntries(
      [...this.gateway.pool.engines].map(([name, { status }]) => [name, status.state] as const),
    );
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.gateway[Symbol.asyncDispose]();
  }
}
