/** Which model a request asks for. */

import { RequestError } from "../server/http/replies.ts";

/** The content of a request, and the model that it names. */
export interface RequestContent {
  readonly model: string | undefined;
  readonly body: Uint8Array<ArrayBuffer>;
}

/**
 * Reads the body as a whole and finds `model` in it: in JSON, or in a form such as those of audio transcriptions.
 *
 * @throws RequestError 400 for JSON that does not parse or a model that is no text, 413 for a body beyond the limit
 */
export async function readContent(request: Request, limitBytes: number): Promise<RequestContent> {
  const body = await readWhole(request, limitBytes);
  const type = request.headers.get("content-type") ?? "";
  if (/^multipart\/form-data\b/i.test(type)) return { body, model: await modelOfForm(body, type) };
  // Many clients send JSON without its type.
  const isJson = /json/i.test(type) || body[0] === "{".charCodeAt(0);
  return { body, model: isJson && body.length > 0 ? modelOfJson(body) : undefined };
}

async function readWhole(request: Request, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const tooLarge = () =>
    new RequestError(413, "BODY_TOO_LARGE", `the body is larger than ${limitBytes} bytes; raise body_limit`);
  if (Number(request.headers.get("content-length") ?? 0) > limitBytes) throw tooLarge();
  const pieces: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const piece of request.body ?? []) {
    sizeBytes += piece.length;
    if (sizeBytes > limitBytes) throw tooLarge();
    pieces.push(piece);
  }
  return new Uint8Array(Buffer.concat(pieces));
}

function modelOfJson(body: Uint8Array): string | undefined {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder().decode(body));
  } catch {
    throw new RequestError(400, "INVALID_ARGUMENT", "the body is not valid JSON");
  }
  const model: unknown = Object(value)["model"];
  return checkModel(model);
}

async function modelOfForm(body: Uint8Array<ArrayBuffer>, type: string): Promise<string | undefined> {
  try {
    const form = await new Response(body, { headers: { "content-type": type } }).formData();
    return checkModel(form.get("model") ?? undefined);
  } catch (error) {
    if (error instanceof RequestError) throw error;
    throw new RequestError(400, "INVALID_ARGUMENT", "the body is not a valid form");
  }
}

function checkModel(model: unknown): string | undefined {
  if (model === undefined || typeof model === "string") return model;
  throw new RequestError(400, "INVALID_ARGUMENT", "model must be a text", { param: "model" });
}
