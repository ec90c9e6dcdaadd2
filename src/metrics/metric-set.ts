import type { Counter, Gauge, Histogram, Registry } from "prom-client";
import { CamemError } from "../errors.ts";
import type { MetricName } from "./names.ts";
import type { loadPromClient } from "./prom-client.ts";
import type { Sample } from "./scraped.ts";

export type Labels = Readonly<Record<string, string>>;

type PromClient = Awaited<ReturnType<typeof loadPromClient>>;

/** The metrics of one registration: adds them to a registry, and removes them again. */
export class MetricSet {
  readonly #client: PromClient;
  readonly #registry: Registry;
  readonly #labels: Labels;
  readonly #metrics = new Map<string, Gauge | Counter | Histogram>();

  constructor(client: PromClient, registry: Registry, labels: Labels) {
    this.#client = client;
    this.#registry = registry;
    this.#labels = labels;
  }

  histogram(name: MetricName, buckets: number[]): Histogram {
    return this.#keep(new this.#client.Histogram({ ...this.#configOf(name), buckets }), name);
  }

  counter(name: MetricName): Counter {
    return this.#keep(new this.#client.Counter(this.#configOf(name)), name);
  }

  /** A metric whose samples are read at each scrape. */
  scraped(name: MetricName, samples: () => readonly Sample[]): void {
    const labels = this.#labels;
    const config = this.#configOf(name);
    const { Gauge, Counter } = this.#client;
    // prom-client cannot set a counter, so both types are reset and then incremented.
    const collect = function (this: Gauge | Counter): void {
      this.reset();
      for (const sample of samples()) this.inc({ ...labels, ...sample.labels }, sample.value);
    };
    this.#keep(
      name.type === "gauge" ? new Gauge({ ...config, collect }) : new Counter({ ...config, collect }),
      name,
    );
  }

  remove(): void {
    for (const [name, metric] of this.#metrics)
      if (this.#registry.getSingleMetric(name) === metric) this.#registry.removeSingleMetric(name);
    this.#metrics.clear();
  }

  #configOf({ name, help, labelNames }: MetricName) {
    if (this.#registry.getSingleMetric(name))
      throw new CamemError(
        "STATE_CONFLICT",
        `the registry already has a metric ${name}; register all engines in one call, or unregister the others first`,
      );
    return {
      name,
      help,
      labelNames: [...labelNames, ...Object.keys(this.#labels)],
      registers: [this.#registry],
    };
  }

  #keep<T extends Gauge | Counter | Histogram>(metric: T, { name }: MetricName): T {
    this.#metrics.set(name, metric);
    return metric;
  }
}
