import { CamemError, formatValue, messageOf } from "../errors.ts";

/** The listeners of a source of events. A listener that fails must not fail the source. */
export class Listeners<Event> {
  readonly #owner: string;
  readonly #listeners = new Set<{ readonly listener: (event: Event) => unknown }>();

  /** @param owner the source in warnings, such as "camem/server" */
  constructor(owner: string) {
    this.#owner = owner;
  }

  /**
   * Returns a function that unsubscribes the listener; calling it twice does nothing.
   *
   * @throws CamemError `INVALID_ARGUMENT`
   */
  subscribe(listener: (event: Event) => unknown): () => void {
    if (typeof listener !== "function")
      throw new CamemError("INVALID_ARGUMENT", `listener is ${formatValue(listener)}; it must be a function`);
    const entry = { listener };
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  emit(event: Event): void {
    const warn = (error: unknown) =>
      process.emitWarning(`a listener of ${this.#owner} threw: ${messageOf(error)}`);
    for (const { listener } of [...this.#listeners]) {
      try {
        const result = listener(event);
        if (result instanceof Promise) result.catch(warn);
      } catch (error) {
        warn(error);
      }
    }
  }
}
