import Type, { type Static } from "typebox";

/** The schema of the option `backend`. */
export const Backend = Type.Union([Type.Literal("ascend"), Type.Literal("emulator")], {
  description: '"ascend" or "emulator"',
});

/** The kind of device: an NPU through CANN, or the emulated device. */
export type Backend = Static<typeof Backend>;

/** The backend of an allocator that is given none, by option or environment. There is no fallback to the emulator. */
export const defaultBackend: Backend = "ascend";
