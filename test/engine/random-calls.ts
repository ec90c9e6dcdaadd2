/** Random orders for the program of `program/probe.c`. */

const mib = 1 << 20;
const names = [..."abcdefgh"];
const reservations = [..."uv"];
const handles = [..."ghij"];

/** A generator of numbers below a bound, the same for the same seed. */
function generator(seed: number): (bound: number) => number {
  let state = seed * 2_654_435_761 + 1;
  return (bound) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * bound);
  };
}

/**
 * Calls in a random order: allocations, mappings, copies and frees, right and wrong ones. No address is read that is
 * not the program's, and no content that was never written: that differs between runs.
 */
export function randomCalls(seed: number, count: number): string[] {
  const below = generator(seed);
  const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T;
  const calls = ["init . .", "set . . 0", ...reservations.map((name) => `reserve ${name} . ${16 * mib}`)];
  const sizes = new Map<string, number>();
  const allocation = (): string[] => {
    const name = pick(names);
    if (sizes.has(name)) {
      sizes.delete(name);
      return [`free ${name} .`];
    }
    const size = pick([100, 4096, 700_000, 1 * mib, 2 * mib, 3 * mib]);
    sizes.set(name, size);
    return [`malloc ${name} . ${size} 0`, `fill ${name} . ${size} ${below(250)} 0`];
  };
  const copy = (): string[] => {
    const name = pick(names);
    const size = sizes.get(name);
    if (size === undefined) return [];
    const offset = below(size);
    return [`write ${name} . ${offset} ${below(250)}`, `read ${name} . ${offset}`, `read ${name} . 0`];
  };
  const mapping = (): string[] => {
    const where = `${pick(reservations)}`;
    const handle = pick(handles);
    const offset = 2 * mib * below(4);
    switch (below(7)) {
      case 0:
        return [`physical ${handle} . ${2 * mib * (1 + below(2))} 0`];
      case 1:
        return [`free_physical ${handle} .`];
      case 2:
      case 3:
        return [
          `map ${where} ${handle} ${offset} ${2 * mib * (1 + below(2))} 0`,
          `attributes ${where} . ${offset}`,
        ];
      case 4:
        return [`fill ${where} . ${mib} ${below(250)} ${offset}`, `read ${where} . ${offset}`];
      case 5:
        return [`range ${where} . ${offset}`, `properties ${handle} .`];
      default:
        return [`unmap ${where} . ${offset}`];
    }
  };
  while (calls.length < count) calls.push(...pick([allocation, copy, mapping, mapping])());
  return calls;
}
