/** Editors show the documentation comment of an option where somebody writes it. */

import { expect, test } from "bun:test";
import { uncommentedOptions } from "./modules.ts";
import { lineAt, sources } from "./sources.ts";

test("every option has a documentation comment", () => {
  const files = sources("src/**/*.ts");
  const missing = files.flatMap((source) =>
    uncommentedOptions(source).map(
      ({ name, start }) => `${source.path}:${lineAt(source.text, start)}: ${name}`,
    ),
  );
  expect(missing).toEqual([]);
  const bare = {
    path: "bare.ts",
    text: "closedObject({ /** Documented. */ a: optional(Flag), b: required(Flag) })",
  };
  expect(uncommentedOptions(bare).map(({ name }) => name)).toEqual(["b"]);
});
