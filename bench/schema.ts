/** The schema of `latest.json`, which a run of the benchmark writes. */

import Type from "typebox";

const Count = Type.Integer({ minimum: 0 });
const closed = { additionalProperties: false };

/** Quartiles over the rounds of a measurement. */
export const Statistic = Type.Object(
  { median: Type.Number(), p25: Type.Number(), p75: Type.Number(), rounds: Type.Integer({ minimum: 1 }) },
  closed,
);
export type Statistic = Type.Static<typeof Statistic>;

/** A measurement from the same rounds as a figure. */
export const Comparison = Type.Object(
  {
    what: Type.String(),
    value: Statistic,
    /** The figure divided by `value`, round by round. */
    ratio: Statistic,
  },
  closed,
);
export type Comparison = Type.Static<typeof Comparison>;

export const Figure = Type.Object(
  {
    scenario: Type.String(),
    /** The variant within the scenario, such as `prepared`. */
    case: Type.String(),
    operation: Type.String(),
    sizeBytes: Count,
    segments: Count,
    unit: Type.Enum(["ms", "µs", "ns", "bytes", "%"]),
    value: Statistic,
    /** The same work without camem. */
    limit: Type.Optional(Comparison),
    /** The peers' algorithm. */
    peers: Type.Optional(Comparison),
    /** Median duration of each phase, in milliseconds. */
    phases: Type.Optional(Type.Record(Type.String(), Type.Number())),
  },
  closed,
);
export type Figure = Type.Static<typeof Figure>;

/** The measured value of a target. */
export const TargetValue = Type.Object(
  {
    id: Type.String(),
    /** The measured sizes: those of a quick run are smaller. */
    measured: Type.String(),
    value: Statistic,
  },
  closed,
);
export type TargetValue = Type.Static<typeof TargetValue>;

export const Findings = Type.Object(
  { figures: Type.Array(Figure), targets: Type.Array(TargetValue), notes: Type.Array(Type.String()) },
  closed,
);
export type Findings = Type.Static<typeof Findings>;

export const TargetRow = Type.Object(
  {
    id: Type.String(),
    figure: Type.String(),
    target: Type.String(),
    measured: Type.String(),
    unit: Type.String(),
    value: Statistic,
    isMet: Type.Boolean(),
  },
  closed,
);
export type TargetRow = Type.Static<typeof TargetRow>;

export const Device = Type.Object(
  {
    backend: Type.Enum(["ascend", "emulator"]),
    reason: Type.String(),
    library: Type.String(),
    soc: Type.String(),
    timingModel: Type.Boolean(),
  },
  closed,
);
export type Device = Type.Static<typeof Device>;

export const Machine = Type.Object(
  { cpu: Type.String(), cores: Count, memoryBytes: Count, kernel: Type.String(), bun: Type.String() },
  closed,
);
export type Machine = Type.Static<typeof Machine>;

export const Results = Type.Object(
  {
    version: Type.Literal(2),
    date: Type.String(),
    quick: Type.Boolean(),
    durationSeconds: Type.Number(),
    device: Device,
    machine: Machine,
    targets: Type.Array(TargetRow),
    figures: Type.Array(Figure),
    notes: Type.Array(Type.String()),
  },
  closed,
);
export type Results = Type.Static<typeof Results>;
