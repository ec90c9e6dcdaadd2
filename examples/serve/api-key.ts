import { createHash, timingSafeEqual } from "node:crypto";
import { OpenAiError } from "./openai.ts";

const digest = (text: string) => createHash("sha256").update(text).digest();

/** Checks the key of OpenAI's clients. Without a key everybody may use the models. */
export class ApiKey {
  readonly #expected: Buffer | undefined;

  constructor(key: string | undefined) {
    this.#expected = key === undefined ? undefined : digest(key);
  }

  /** The answer that refuses the request; undefined when it has the key. */
  refusal({ headers }: Request): Response | undefined {
    if (this.#expected === undefined) return undefined;
    const sent = /^bearer ([\x21-\x7e]+)$/i.exec(headers.get("authorization") ?? "")?.[1];
    // The digests have equal lengths, so the comparison reveals nothing about the key.
    if (sent !== undefined && timingSafeEqual(digest(sent), this.#expected)) return undefined;
    const error = new OpenAiError(401, "send the API key: Authorization: Bearer …", null, "invalid_api_key", {
      "www-authenticate": "Bearer",
    });
    return error.response;
  }
}
