import type { Counter, Gauge, Registry } from "prom-client";
import Type from "typebox";
import type { CaMemAllocator } from "../allocator.ts";
import { CamemError, formatValue } from "../errors.ts";
import { validate } from "../options/validate.ts";
import { SleepController } from "../server/engine/controller.ts";
import { type EngineGroup, groupOf } from "../server/pool/engine-group.ts";
import { loadPromClient } from "./prom-client.ts";
import { type ScrapedMetric, scrapedMetrics } from "./scraped.ts";
import { type Snapshot, snapshotOncePerScrape } from "./snapshot.ts";
import { durationBuckets, OperationRecorder, operations, vllmBuckets } from "./transitions.ts";

export interface MetricsOptions {
  /** One engine, several, or a pool of them. */
  readonly engine: SleepController | EngineGroup | readonly SleepController[];
  /** The allocator of the engines, for the page-locked host memory that they share. */
  readonly allocator: Pick<CaMemAllocator, "hostUsage">;
  /** Labels that every metric carries besides its own, such as `{ cluster: "a" }`. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

/** What {@link registerMetrics} has put into a registry. */
export interface MetricsRegistration extends Disposable {
  /** Takes all of it out again and stops following the engines. Doing so twice does nothing. */
  unregister(): void;
}

const OptionsSchema = Type.Object(
  {
    engine: Type.Unsafe<unknown>(
      Type.Unknown({ description: "a SleepController, an array of them, or a ModelPool" }),
    ),
    allocator: Type.Unsafe<unknown>(Type.Unknown({ description: "the CaMemAllocator of the engines" })),
    labels: Type.Optional(Type.Record(Type.String(), Type.String(), { description: "strings by name" })),
  },
  { additionalProperties: false },
);

type Labels = Readonly<Record<string, string>>;
type PromClient = Awaited<ReturnType<typeof loadPromClient>>;
type Metric = Gauge | Counter | InstanceType<PromClient["Histogram"]>;

const ownLabels = new Set([
  ...scrapedMetrics.flatMap(({ labelNames }) => labelNames),
  ...["operation", "outcome", "phase", "code", "le"],
]);

function checkLabels(labels: Labels): void {
  for (const name of Object.keys(labels)) {
    if (!/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name) || ownLabels.has(name))
      throw new CamemError(
        "INVALID_CONFIG",
        `labels has ${formatValue(name)}, which ${ownLabels.has(name) ? "is a label of the metrics themselves" : "is no name of a label"}`,
      );
  }
}

function groupsOf(engine: MetricsOptions["engine"]): readonly EngineGroup[] {
  if (!Array.isArray(engine)) return [groupOf(engine as SleepController | EngineGroup)];
  const engines: readonly unknown[] = engine;
  if (!engines.every((one) => one instanceof SleepController))
    throw new CamemError("INVALID_CONFIG", "engine has an element that is no SleepController");
  if (new Set(engines.map(({ name }) => name)).size < engines.length)
    throw new CamemError(
      "INVALID_CONFIG",
      "two engines have one name; their metrics could not be told apart",
    );
  return engines.map((one) => groupOf(one));
}

/** The metrics of one registration: creates them in a registry, and takes them out again. */
class MetricSet {
  readonly #client: PromClient;
  readonly #registry: Registry;
  readonly #labels: Labels;
  readonly #metrics = new Map<string, Metric>();

  constructor(client: PromClient, registry: Registry, labels: Labels) {
    this.#client = client;
    this.#registry = registry;
    this.#labels = labels;
  }

  histogram(name: string, help: string, labelNames: readonly string[], buckets: number[]) {
    return this.#keep(name, new this.#client.Histogram({ ...this.#base(name, help, labelNames), buckets }));
  }

  counter(name: string, help: string, labelNames: readonly string[]) {
    return this.#keep(name, new this.#client.Counter(this.#base(name, help, labelNames)));
  }

  /** A metric of which nothing is kept from one scrape to the next. */
  scraped({ name, help, type, labelNames, samples }: ScrapedMetric, look: () => Snapshot): void {
    const labels = this.#labels;
    const base = this.#base(name, help, labelNames);
    const { Gauge, Counter } = this.#client;
    // A counter's total is set like a gauge's value: to nothing, and then to what it is.
    const collect = function (this: Gauge | Counter): void {
      this.reset();
      for (const sample of samples(look())) this.inc({ ...labels, ...sample.labels }, sample.value);
    };
    this.#keep(name, type === "gauge" ? new Gauge({ ...base, collect }) : new Counter({ ...base, collect }));
  }

  remove(): void {
    for (const [name, metric] of this.#metrics)
      if (this.#registry.getSingleMetric(name) === metric) this.#registry.removeSingleMetric(name);
    this.#metrics.clear();
  }

  #base(name: string, help: string, labelNames: readonly string[]) {
    if (this.#registry.getSingleMetric(name))
      throw new CamemError(
        "STATE_CONFLICT",
        `the registry has a metric ${name} already; register all engines in one call, or unregister the others first`,
      );
    return {
      name,
      help,
      labelNames: [...labelNames, ...Object.keys(this.#labels)],
      registers: [this.#registry],
    };
  }

  #keep<T extends Metric>(name: string, metric: T): T {
    this.#metrics.set(name, metric);
    return metric;
  }
}

/** Fills `metrics`, and returns the function that stops following the engines. */
function follow(
  metrics: MetricSet,
  groups: readonly EngineGroup[],
  allocator: MetricsOptions["allocator"],
  labels: Labels,
): () => void {
  const recorder = new OperationRecorder(
    {
      vllmDuration: metrics.histogram(
        "vllm:sleep_mode_operation_duration_seconds",
        "Duration of a sleep or wake-up that had something to do",
        ["operation"],
        vllmBuckets,
      ),
      duration: metrics.histogram(
        "camem_transition_duration_seconds",
        "Duration of a sleep or wake-up, requests in flight and reloading included",
        ["model_name", "operation", "outcome"],
        durationBuckets,
      ),
      phaseSeconds: metrics.counter(
        "camem_transition_phase_seconds_total",
        "Time that sleeps and wake-ups spent in each phase of moving memory",
        ["model_name", "operation", "phase"],
      ),
      failures: metrics.counter(
        "camem_transition_failures_total",
        "Sleeps and wake-ups that failed, by the code of the error",
        ["model_name", "operation", "code"],
      ),
    },
    labels,
  );
  const unread = new Map<string, number>();
  const onFailure = (code: string) => unread.set(code, (unread.get(code) ?? 0) + 1);
  const look = snapshotOncePerScrape({ groups, allocator, onFailure });
  const scrapeFailures: ScrapedMetric = {
    name: "camem_scrape_failures_total",
    help: "What could not be read for a scrape and was left out of it, by the code of the error",
    type: "counter",
    labelNames: ["code"],
    samples: () => [...unread].map(([code, value]) => ({ labels: { code }, value })),
  };
  const inFlight: ScrapedMetric = {
    name: "vllm:sleep_mode_operations_in_flight",
    help: "Sleeps and wake-ups that run",
    type: "gauge",
    labelNames: ["operation"],
    samples: () =>
      operations.map((operation) => ({ labels: { operation }, value: recorder.inFlight(operation) })),
  };
  for (const metric of [...scrapedMetrics, inFlight, scrapeFailures]) metrics.scraped(metric, look);
  const ends = groups.map((group) => group.subscribe((event) => recorder.take(event)));
  return () => {
    for (const end of ends) end();
  };
}

/**
 * Registers the metrics of engines with prom-client: vLLM's by its names and labels (`vllm:engine_sleep_state`,
 * `vllm:sleep_mode_operation_duration_seconds`, `vllm:sleep_mode_operations_in_flight`), and `camem_*` for the memory of each tag,
 * page-locked host memory, the devices, transitions and requests. Memory is read when it is scraped; nothing runs in between.
 * All of it or, on failure, nothing is registered.
 *
 * @throws CamemError `LIBRARY_NOT_FOUND` without prom-client, `STATE_CONFLICT` when the registry has such metrics already, or
 * `INVALID_CONFIG`
 */
export async function registerMetrics(
  registry: Registry,
  options: MetricsOptions,
): Promise<MetricsRegistration> {
  validate(OptionsSchema, options, "the options of registerMetrics", "INVALID_CONFIG");
  const { engine, allocator, labels = {} } = options;
  checkLabels(labels);
  const groups = groupsOf(engine);
  const metrics = new MetricSet(await loadPromClient(), registry, labels);
  try {
    const end = follow(metrics, groups, allocator, labels);
    const unregister = () => {
      end();
      metrics.remove();
    };
    return { unregister, [Symbol.dispose]: unregister };
  } catch (error) {
    metrics.remove();
    throw error;
  }
}
