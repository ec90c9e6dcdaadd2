/** What a run of the benchmark writes to `latest.json`. */

import Type from "typebox";

const Count = Type.Integer({ minimum: 0 });
const closed = { additionalProperties: false };

/** Over the rounds of a measurement. */
export const Statistic = Type.Object(
  { median: Type.Number(), p25: Type.Number(), p75: Type.Number(), rounds: Type.Integer({ minimum: 1 }) },
  closed,
);
export type Statistic = Type.Static<typeof Statistic>;

/** Something that was measured in the same rounds as a figure. */
export const Comparison = Type.Object(
  {
    what: Type.String(),
    value: Statistic,
    /** The figure over this, round by round. */
    ratio: Statistic,
  },
  closed,
);
export type Comparison = Type.Static<typeof Comparison>;

export const Figure = Type.Object(
  {
    scenario: Type.String(),
    /** What is compared within the scenario, such as `prepared`. */
    case: Type.String(),
    operation: Type.String(),
    sizeBytes: Count,
    segments: Count,
    unit: Type.Enum(["ms", "µs", "bytes", "%"]),
    value: Statistic,
    /** The same work without camem. */
    limit: Type.Optional(Comparison),
    /** The peers' algorithm. */
    peers: Type.Optional(Comparison),
    /** Medians, in milliseconds, of what the time went to. */
    phases: Type.Optional(Type.Record(Type.String(), Type.Number())),
  },
  closed,
);
export type Figure = Type.Static<typeof Figure>;

/** A figure that has a reach. */
export const Reached = Type.Object(
  {
    id: Type.String(),
    /** What was measured, with its sizes: those of a quick run are smaller. */
    measured: Type.String(),
    value: Statistic,
  },
  closed,
);
export type Reached = Type.Static<typeof Reached>;

export const Findings = Type.Object(
  { figures: Type.Array(Figure), reached: Type.Array(Reached), notes: Type.Array(Type.String()) },
  closed,
);
export type Findings = Type.Static<typeof Findings>;

export const ReachRow = Type.Object(
  {
    id: Type.String(),
    figure: Type.String(),
    reach: Type.String(),
    measured: Type.String(),
    unit: Type.String(),
    value: Statistic,
    passed: Type.Boolean(),
  },
  closed,
);
export type ReachRow = Type.Static<typeof ReachRow>;

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
    version: Type.Literal(1),
    date: Type.String(),
    quick: Type.Boolean(),
    durationSeconds: Type.Number(),
    device: Device,
    machine: Machine,
    reach: Type.Array(ReachRow),
    figures: Type.Array(Figure),
    notes: Type.Array(Type.String()),
  },
  closed,
);
export type Results = Type.Static<typeof Results>;
