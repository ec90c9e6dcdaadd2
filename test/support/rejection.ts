/**
 * What promises reject with. Bun's `expect(promise).rejects` runs the event loop in itself and can lose what a Worker or a
 * process posts meanwhile, for good: no test uses it.
 */

/**
 * What `promise` rejects with.
 *
 * @throws Error where it fulfils
 */
export async function rejectionOf(promise: Promise<unknown>): Promise<unknown> {
  const settled = await promise.then(
    () => undefined,
    (reason: unknown) => ({ reason }),
  );
  if (settled === undefined) throw new Error("the promise was fulfilled");
  return settled.reason;
}

/**
 * The message of what `promise` rejects with.
 *
 * @throws Error where it fulfils, or rejects with anything but an Error
 */
export async function rejectionMessage(promise: Promise<unknown>): Promise<string> {
  const reason = await rejectionOf(promise);
  if (reason instanceof Error) return reason.message;
  throw new Error(`the promise rejected with ${String(reason)}`);
}
