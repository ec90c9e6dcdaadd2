/** The signals that other programs and the terminal send to a process. */

const passed = [
  "SIGHUP",
  "SIGINT",
  "SIGQUIT",
  "SIGTERM",
  "SIGUSR1",
  "SIGUSR2",
  "SIGCONT",
  "SIGWINCH",
] as const satisfies readonly NodeJS.Signals[];

/** Calls `pass` for every signal instead of what it does by itself. Returns a function that ends this. */
export function passSignals(pass: (signal: NodeJS.Signals) => void): () => void {
  for (const signal of passed) process.on(signal, pass);
  return () => {
    for (const signal of passed) process.off(signal, pass);
  };
}
