/** The metrics of engines as text, for a server without a registry of its own. */

import { loadPromClient } from "./prom-client.ts";
import { type MetricsOptions, registerMetrics } from "./register.ts";

/** The text that Prometheus scrapes. */
export interface Exposition extends Disposable {
  /** The metrics now, as the answer to a scrape. */
  answer(): Promise<Response>;
}

/** @throws CamemError `LIBRARY_NOT_FOUND` without prom-client, or as {@link registerMetrics} */
export async function exposeMetrics(options: MetricsOptions): Promise<Exposition> {
  const { Registry } = await loadPromClient();
  const registry = new Registry();
  const registration = await registerMetrics(registry, options);
  return {
    answer: async () =>
      new Response(await registry.metrics(), { headers: { "content-type": registry.contentType } }),
    [Symbol.dispose]: () => registration.unregister(),
  };
}
