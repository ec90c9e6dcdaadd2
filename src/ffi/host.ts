/** Page-locked host memory and the spill folder. */

import type { SharedExports } from "./exports.ts";
import { check } from "./status.ts";
import { type Decoded, decode } from "./struct.ts";
import * as abi from "./symbols.gen.ts";

export type HostInfo = Decoded<typeof abi.HostInfo>;

/** Page-locked host memory and the spill folder. */
export const hostCalls = (exports: () => SharedExports) => {
  return {
    /** The state of page-locked host memory. */
    hostInfo(): HostInfo {
      const bytes = new Uint8Array(abi.HostInfo.sizeBytes);
      check("read the state of host memory", () => exports().camem_host_info(bytes));
      return decode(abi.HostInfo, bytes);
    },

    /** Sets how much unused page-locked memory the shim keeps. */
    retainHost(sizeBytes: number): void {
      check("set how much host memory is kept", () => exports().camem_host_retain(sizeBytes));
    },

    /** Sets the folder of spill files. */
    setSpillFolder(path: string): void {
      const bytes = Buffer.from(path);
      check(
        () => `spill to ${path}`,
        () => exports().camem_spill_folder(bytes, bytes.length),
      );
    },
  };
};
