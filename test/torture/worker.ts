/** A Worker that attaches to the allocator of its process, in the process under torture. Failures are answers. */

import { CaMemAllocator, CamemError, type DeviceBuffer } from "camem";

declare const self: Worker;

export const workerBytes = 3 * 2 ** 20;
export const workerByte = 7;

let buffer: DeviceBuffer | undefined;

const commands = {
  open: () => void CaMemAllocator.getInstance(),
  /** The address; the memory stays when this Worker ends. */
  allocate: () => {
    buffer = CaMemAllocator.getInstance().malloc(workerBytes, { tag: "weights" });
    return buffer.ptr;
  },
  fill: () => buffer?.fill(workerByte),
  sleep: async () => void (await CaMemAllocator.getInstance().sleep()),
  wakeUp: async () => void (await CaMemAllocator.getInstance().wakeUp()),
  usage: () => void CaMemAllocator.getInstance().usage(),
  close: () => CaMemAllocator.getInstance().close(),
};

export type WorkerCommand = keyof typeof commands;

export type WorkerAnswer =
  | { readonly value: number | undefined }
  | {
      readonly error: {
        readonly typed: boolean;
        readonly code: string;
        readonly message: string;
        readonly call: string | undefined;
        readonly aclCode: number | undefined;
        readonly transitionComplete: boolean;
      };
    };

function describe(error: unknown) {
  if (!(error instanceof CamemError)) {
    const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return {
      typed: false,
      code: "",
      message,
      call: undefined,
      aclCode: undefined,
      transitionComplete: false,
    };
  }
  const { code, message, call, aclCode, transitionComplete } = error;
  return { typed: true, code, message, call, aclCode, transitionComplete };
}

self.onmessage = async ({ data }: MessageEvent<WorkerCommand>) => {
  try {
    const value = await commands[data]();
    self.postMessage({ value: typeof value === "number" ? value : undefined } satisfies WorkerAnswer);
  } catch (error) {
    self.postMessage({ error: describe(error) } satisfies WorkerAnswer);
  }
};
