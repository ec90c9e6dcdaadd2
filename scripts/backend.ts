/** The backend of the tests, the fuzzer and the benchmark, which run on any machine. */

import { type BackendChoice, chooseBackend } from "../examples/tiny-llama/backend.ts";
import { buildNative } from "./native.ts";

/** Builds the native libraries, chooses the backend and sets `CAMEM_BACKEND` for every later allocator. */
export async function selectBackend(): Promise<BackendChoice> {
  await buildNative();
  const choice = await chooseBackend();
  process.env["CAMEM_BACKEND"] = choice.backend;
  return choice;
}
