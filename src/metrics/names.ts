/** Name, help and labels of every metric, and the buckets of histograms. */

export interface MetricName {
  readonly name: string;
  readonly help: string;
  readonly type: "gauge" | "counter" | "histogram";
  readonly labelNames: readonly string[];
}

function perEngine(type: MetricName["type"], name: string, help: string): MetricName {
  return { name, help, type, labelNames: ["model_name"] };
}

/** vLLM numbers the replicas of a model by `engine`. */
function ofVllm(name: string, help: string): MetricName {
  return { name, help, type: "gauge", labelNames: ["engine", "model_name"] };
}

function perTag(name: string, help: string): MetricName {
  return { name, help, type: "gauge", labelNames: ["model_name", "tag"] };
}

function ofMachine(name: string, help: string): MetricName {
  return { name, help, type: "gauge", labelNames: [] };
}

function perDevice(name: string, help: string): MetricName {
  return { name, help, type: "gauge", labelNames: ["device"] };
}

/** vLLM's buckets, in seconds. */
export const vllmBuckets = [0.01, 0.1, 1, 10, 30, 60, 120, 300, 600];

/** Buckets in seconds, for slow spill folders and for fast page-locked memory. */
export const durationBuckets = [
  0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600,
];

/** Metrics that are read at each scrape. */
export const scrapedNames = {
  sleepState: {
    name: "vllm:engine_sleep_state",
    help: "1 for the sleep state of the engine, 0 for the others",
    type: "gauge",
    labelNames: ["engine", "model_name", "sleep_state"],
  },
  engineState: {
    name: "camem_engine_state",
    help: "1 for the state of the engine, 0 for the others; requests are admitted in awake only",
    type: "gauge",
    labelNames: ["model_name", "state"],
  },
  mappedBytes: perTag("camem_mapped_bytes", "Device memory that is awake"),
  hostBytes: perTag("camem_host_bytes", "Backups in page-locked host memory"),
  pageableBytes: perTag("camem_pageable_bytes", "Backups in ordinary memory, since page-locking was refused"),
  spilledBytes: perTag("camem_spilled_bytes", "Backups in the spill folder"),
  checkpointBytes: perTag("camem_checkpoint_bytes", "Content backed by its checkpoint file"),
  discardedBytes: perTag("camem_discarded_bytes", "Address space without content"),
  segments: perTag("camem_segments", "Reserved address ranges"),
  lostContent: perTag("camem_lost_content", "1 for weights whose content is lost until they are loaded"),
  hostBudgetBytes: ofMachine("camem_host_budget_bytes", "The most host memory that backups may take"),
  pageLockedBytes: ofMachine(
    "camem_page_locked_bytes",
    "Page-locked host memory: backups, prepared and retained",
  ),
  pageLockedFreeBytes: ofMachine(
    "camem_page_locked_free_bytes",
    "Page-locked host memory that holds no backup",
  ),
  pageLockedPreparedBytes: ofMachine(
    "camem_page_locked_prepared_bytes",
    "Free page-locked host memory prepared for the next sleep",
  ),
  deviceFreeBytes: perDevice("camem_device_free_bytes", "Free device memory, for all processes together"),
  deviceTotalBytes: perDevice("camem_device_total_bytes", "Device memory"),
  vllmRequestsRunning: ofVllm("vllm:num_requests_running", "Requests admitted and running"),
  vllmRequestsWaiting: ofVllm(
    "vllm:num_requests_waiting",
    "Requests held or parked until the engine is awake",
  ),
  requestsRunning: perEngine("gauge", "camem_requests_running", "Requests admitted and running"),
  requestsParked: perEngine("gauge", "camem_requests_parked", "Requests parked at a checkpoint"),
  requestsWaiting: perEngine("gauge", "camem_requests_waiting", "Requests held until the engine is awake"),
  requestsAdmitted: perEngine("counter", "camem_requests_admitted_total", "Requests admitted"),
  requestsRefused: perEngine("counter", "camem_requests_refused_total", "Requests refused"),
  requestsAborted: perEngine("counter", "camem_requests_aborted_total", "Requests aborted"),
  operationsInFlight: {
    name: "vllm:sleep_mode_operations_in_flight",
    help: "Sleeps and wake-ups in progress",
    type: "gauge",
    labelNames: ["operation"],
  },
  scrapeFailures: {
    name: "camem_scrape_failures_total",
    help: "Values that could not be read and were left out of a scrape, by error code",
    type: "counter",
    labelNames: ["code"],
  },
} as const satisfies Record<string, MetricName>;

/** Metrics that count every sleep and wake-up. */
export const transitionNames = {
  vllmDuration: {
    name: "vllm:sleep_mode_operation_duration_seconds",
    help: "Duration of a sleep or wake-up that had something to do",
    type: "histogram",
    labelNames: ["operation"],
  },
  duration: {
    name: "camem_transition_duration_seconds",
    help: "Duration of a sleep or wake-up, including the wait for requests in flight and the reload of weights",
    type: "histogram",
    labelNames: ["model_name", "operation", "outcome"],
  },
  phaseSeconds: {
    name: "camem_transition_phase_seconds_total",
    help: "Time that sleeps and wake-ups spent in each phase of moving memory",
    type: "counter",
    labelNames: ["model_name", "operation", "phase"],
  },
  failures: {
    name: "camem_transition_failures_total",
    help: "Sleeps and wake-ups that failed, by error code",
    type: "counter",
    labelNames: ["model_name", "operation", "code"],
  },
} as const satisfies Record<string, MetricName>;
