/** What to say of a server that cannot be reached. */

import { messageOf } from "../errors.ts";

const texts: Readonly<Record<string, string>> = {
  EACCES: "this user may not use it",
  ECONNREFUSED: "nothing listens there",
  ECONNRESET: "the connection was closed",
  EAI_AGAIN: "its name cannot be resolved at the moment",
  ENOENT: "there is no such socket",
  ENOTFOUND: "there is no such host",
};

/** Why a `fetch` has failed, in words. */
export function connectionFailure(error: unknown): string {
  const { name, code } = Object(error) as { readonly name?: unknown; readonly code?: unknown };
  if (name === "TimeoutError") return "it did not answer in time";
  // After its first sentence, the message of Bun gives advice.
  return texts[String(code)] ?? messageOf(error).split(". ")[0] ?? "";
}
