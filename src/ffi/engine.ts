/** What an engine that runs under the preload library reports about itself. */

import type { ServedExports } from "./exports.ts";
import { check, firstResult, takeFirst } from "./status.ts";
import { type Decoded, decode } from "./struct.ts";
import * as abi from "./symbols.gen.ts";

export type EngineInfo = Decoded<typeof abi.EngineInfo>;
export type EngineSegment = Decoded<typeof abi.EngineSegment>;

const rulesBytes = 64 * 1024;

export const engineCalls = (exports: () => ServedExports) => {
  return {
    engineInfo(): EngineInfo {
      const bytes = new Uint8Array(abi.EngineInfo.sizeBytes);
      check("read the state of the engine", () => exports().camem_engine_info(bytes));
      return decode(abi.EngineInfo, bytes);
    },

    /** What the library knows of segments and of memory that cannot sleep. */
    engineSegments(): EngineSegment[] {
      const { sizeBytes } = abi.EngineSegment;
      for (let capacity = 256; ; ) {
        const bytes = new Uint8Array(capacity * sizeBytes);
        check("list the segments of the engine", () =>
          exports().camem_engine_segments(bytes, capacity, firstResult),
        );
        const count = takeFirst();
        if (count <= capacity)
          return Array.from({ length: count }, (_, index) =>
            decode(abi.EngineSegment, bytes, index * sizeBytes),
          );
        capacity = count + Math.ceil(count / 4);
      }
    },

    /** The rules, as the user stated them. */
    engineRules(): string[] {
      const bytes = new Uint8Array(rulesBytes);
      check("read the rules of the engine", () =>
        exports().camem_engine_rules(bytes, bytes.length, firstResult),
      );
      const text = new TextDecoder().decode(bytes.subarray(0, takeFirst()));
      return text.split("\n").filter((line) => line !== "");
    },
  };
};
