/** What the header of an ELF file says: for which machine it is, and how it is loaded. */

import { closeSync, openSync, readSync } from "node:fs";

/** An executable or a library. */
export interface ElfFile {
  /** The architecture by Node's name, such as `x64`; others by their number in the header. */
  readonly arch: string;
  /** The path of the dynamic loader; undefined in a library and in a statically linked program. */
  readonly loader: string | undefined;
}

const architectures: Readonly<Record<number, string>> = {
  3: "ia32",
  40: "arm",
  62: "x64",
  183: "arm64",
  243: "riscv64",
};

const headerBytes = 64;
const programHeaderBytes = 56;
const loaderSegment = 3;
const longestPath = 4096;

/** Reads a 64-bit little-endian ELF file. Undefined for anything else, such as a script. */
export function readElf(path: string): ElfFile | undefined {
  const file = openSync(path, "r");
  try {
    const header = readAt(file, 0, headerBytes);
    if (header.length < headerBytes || header.toString("latin1", 0, 4) !== "\x7fELF") return undefined;
    const machine = header.readUInt16LE(18);
    const arch = architectures[machine] ?? `machine ${machine}`;
    const is64Bit = header[4] === 2 && header[5] === 1;
    return { arch, loader: is64Bit ? loaderOf(file, header) : undefined };
  } finally {
    closeSync(file);
  }
}

function loaderOf(file: number, header: Buffer): string | undefined {
  const tableOffset = Number(header.readBigUInt64LE(32));
  const count = header.readUInt16LE(56);
  const table = readAt(file, tableOffset, count * programHeaderBytes);
  for (let offset = 0; offset + programHeaderBytes <= table.length; offset += programHeaderBytes) {
    if (table.readUInt32LE(offset) !== loaderSegment) continue;
    const length = Math.min(Number(table.readBigUInt64LE(offset + 32)), longestPath);
    return readAt(file, Number(table.readBigUInt64LE(offset + 8)), length)
      .toString("utf8")
      .replace(/\0.*$/, "");
  }
  return undefined;
}

/** Fewer bytes at the end of the file. */
function readAt(file: number, position: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  return buffer.subarray(0, readSync(file, buffer, 0, length, position));
}
