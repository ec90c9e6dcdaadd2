import { expect } from "bun:test";
import { CaMemAllocator } from "camem";
import { type ControllerOptions, type HandlerOptions, SleepController } from "camem/server";
import { FakeEngine } from "../../support/fake-engine.ts";
import { TestServer } from "../../support/test-server.ts";

/** A fake engine, its controller, and a server with the administrative routes. */
export class HandlerFixture {
  readonly allocator = CaMemAllocator.getInstance();
  readonly engine = new FakeEngine(this.allocator);
  controller = new SleepController(this.allocator);
  server = this.#serve({});

  #serve(options: Partial<HandlerOptions>): TestServer {
    return new TestServer(this.controller, { default: this.engine }, options);
  }

  /** Replaces the controller and the server by ones with these options. */
  async restart(options: ControllerOptions, handlerOptions: Partial<HandlerOptions> = {}): Promise<void> {
    await this.server.stop();
    await this.controller.close();
    this.controller = new SleepController(this.allocator, options);
    this.server = this.#serve(handlerOptions);
  }

  async close(): Promise<void> {
    await this.server.stop();
    await this.controller.close();
    await this.allocator.close();
  }
}

/** The body of every error: as OpenAI's clients expect it, and with a reason. */
export const errorShape = (status: number, param: string | null = null) => ({
  error: {
    message: expect.any(String),
    type: expect.any(String),
    param,
    code: status,
    reason: expect.stringMatching(/^[A-Z_]+$/),
  },
});

/** The status of an error and the parameter that it names; fails when the body has another shape. */
export async function errorOf(answer: Promise<[number, unknown]>): Promise<[number, string | null]> {
  const [status, body] = await answer;
  const { error } = body as { error: { param: string | null } };
  expect(body).toMatchObject(errorShape(status, error.param));
  return [status, error.param];
}
