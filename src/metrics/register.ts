import type { Registry } from "prom-client";
import Type, { type Static } from "typebox";
import type { CaMemAllocator } from "../allocator.ts";
import { CamemError, formatValue } from "../errors.ts";
import { closedObject, optional, required } from "../options/schemas.ts";
import { validate } from "../options/validate.ts";
import { SleepController } from "../server/engine/controller.ts";
import { type EngineGroup, groupOf } from "../server/pool/engine-group.ts";
import { type Labels, MetricSet } from "./metric-set.ts";
import { durationBuckets, type MetricName, scrapedNames, transitionNames, vllmBuckets } from "./names.ts";
import { loadPromClient } from "./prom-client.ts";
import { samplesOf } from "./scraped.ts";
import { SnapshotReader } from "./snapshot.ts";
import { TransitionRecorder } from "./transitions.ts";

const MetricsOptions = closedObject({
  /** One engine, several, or a pool of them. */
  engine: required(
    Type.Unsafe<SleepController | EngineGroup | readonly SleepController[]>(
      Type.Unknown({ description: "a SleepController, an array of them, or a ModelPool" }),
    ),
  ),
  /** The allocator of the engines, for the page-locked host memory that they share. */
  allocator: required(
    Type.Unsafe<Pick<CaMemAllocator, "hostUsage">>(
      Type.Unknown({ description: "the CaMemAllocator of the engines" }),
    ),
  ),
  /** Additional labels of every metric, such as `{ cluster: "a" }`. */
  labels: optional(
    Type.Unsafe<Labels>(Type.Record(Type.String(), Type.String(), { description: "strings by name" })),
  ),
});

/** Options of {@link registerMetrics}. */
export interface MetricsOptions extends Static<typeof MetricsOptions> {}

/** The metrics that {@link registerMetrics} has added to a registry. */
export interface MetricsRegistration extends Disposable {
  /** Removes the metrics from the registry and unsubscribes from the engines. Calling it twice does nothing. */
  unregister(): void;
}

const allNames: readonly MetricName[] = [...Object.values(scrapedNames), ...Object.values(transitionNames)];

/** `le` is the label of a histogram's buckets. */
const ownLabels = new Set([...allNames.flatMap(({ labelNames }) => labelNames), "le"]);

function checkLabels(labels: Labels): void {
  for (const name of Object.keys(labels)) {
    if (!/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name) || ownLabels.has(name))
      throw new CamemError(
        "INVALID_CONFIG",
        `labels has ${formatValue(name)}, which ${ownLabels.has(name) ? "is a label of the metrics themselves" : "is not a valid label name"}`,
        { property: "labels" },
      );
  }
}

/** The registry may be of another copy of prom-client, so its methods decide. */
function checkRegistry(registry: unknown): void {
  const methods: readonly (keyof Registry)[] = ["getSingleMetric", "registerMetric", "removeSingleMetric"];
  const given = Object(registry) as Partial<Registry>;
  if (methods.every((method) => typeof given[method] === "function")) return;
  throw new CamemError(
    "INVALID_CONFIG",
    `the registry is ${formatValue(registry)}; it must be a Registry of prom-client, such as new Registry()`,
    { property: "registry" },
  );
}

function groupsOf(engine: MetricsOptions["engine"]): readonly EngineGroup[] {
  if (!Array.isArray(engine)) return [groupOf(engine as SleepController | EngineGroup)];
  const engines: readonly unknown[] = engine;
  if (!engines.every((one) => one instanceof SleepController))
    throw new CamemError("INVALID_CONFIG", "an element of engine is not a SleepController", {
      property: "engine",
    });
  const names = engines.map(({ name }) => name);
  const repeated = names.find((name, index) => names.indexOf(name) < index);
  if (repeated !== undefined)
    throw new CamemError(
      "INVALID_CONFIG",
      `two engines have the name ${formatValue(repeated)}, so their metrics would mix`,
      { property: "engine" },
    );
  return engines.map((one) => groupOf(one));
}

/** Adds all metrics to `metrics`. Returns the function that unsubscribes from the engines. */
function addMetrics(
  metrics: MetricSet,
  groups: readonly EngineGroup[],
  allocator: MetricsOptions["allocator"],
  labels: Labels,
): () => void {
  const recorder = new TransitionRecorder(
    {
      vllmDuration: metrics.histogram(transitionNames.vllmDuration, vllmBuckets),
      duration: metrics.histogram(transitionNames.duration, durationBuckets),
      phaseSeconds: metrics.counter(transitionNames.phaseSeconds),
      failures: metrics.counter(transitionNames.failures),
    },
    labels,
  );
  const reader = new SnapshotReader({ groups, allocator, inFlight: () => recorder.inFlight });
  for (const key of Object.keys(scrapedNames) as (keyof typeof scrapedNames)[])
    metrics.scraped(scrapedNames[key], () => samplesOf[key](reader.read()));
  const unsubscribes = groups.map((group) => group.subscribe((event) => recorder.record(event)));
  return () => {
    for (const unsubscribe of unsubscribes) unsubscribe();
  };
}

/**
 * Registers the metrics of engines with prom-client: vLLM's metrics by vLLM's names and labels (`vllm:engine_sleep_state`,
 * `vllm:sleep_mode_operation_duration_seconds`, `vllm:sleep_mode_operations_in_flight`), and `camem_*` for the memory of each tag,
 * page-locked host memory, devices, transitions and requests. Memory is read at each scrape and at no other time. On failure no
 * metric is registered.
 *
 * @throws CamemError `LIBRARY_NOT_FOUND` without prom-client, `STATE_CONFLICT` when the registry already has one of the metrics,
 * or `INVALID_CONFIG`
 */
export async function registerMetrics(
  registry: Registry,
  options: MetricsOptions,
): Promise<MetricsRegistration> {
  checkRegistry(registry);
  validate(MetricsOptions, options, "registerMetrics", "INVALID_CONFIG");
  const { engine, allocator, labels = {} } = options;
  checkLabels(labels);
  const groups = groupsOf(engine);
  const metrics = new MetricSet(await loadPromClient(), registry, labels);
  try {
    const unsubscribe = addMetrics(metrics, groups, allocator, labels);
    const unregister = () => {
      unsubscribe();
      metrics.remove();
    };
    return { unregister, [Symbol.dispose]: unregister };
  } catch (error) {
    metrics.remove();
    throw error;
  }
}
