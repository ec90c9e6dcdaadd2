/// <reference lib="esnext.disposable" preserve="true" />

/**
 * Metrics of engines for Prometheus. Importing this module loads nothing; `registerMetrics` needs the package `prom-client`.
 *
 * @module camem/metrics
 */

export { type MetricsOptions, type MetricsRegistration, registerMetrics } from "./register.ts";
