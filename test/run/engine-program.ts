/** A program with an HTTP server, as tests of `camem run` start it. Its arguments say how it behaves. */

const [port = "0", ...behaviours] = process.argv.slice(2);
const has = (name: string) => behaviours.includes(name);

if (has("ignores-sigterm"))
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => undefined);
process.on("SIGUSR1", () => process.exit(3));
if (has("leaves-children"))
  Bun.spawn(["setsid", process.execPath, "-e", "setInterval(() => {}, 1000)"], {
    stdio: ["ignore", "ignore", "ignore"],
  });
if (has("exits-7")) process.exit(7);
if (has("dies")) process.kill(process.pid, "SIGKILL");

let isReady = !has("is-slow");
setTimeout(() => {
  isReady = true;
}, 300);

if (has("never-listens")) setInterval(() => undefined, 1000);
else
  Bun.serve({
    port: Number(port),
    hostname: "127.0.0.1",
    fetch: async (request) => {
      const { pathname } = new URL(request.url);
      if (pathname === "/health") return new Response(null, { status: isReady ? 200 : 503 });
      if (pathname === "/exit") process.exit(5);
      return new Response(`${request.method} ${pathname} ${await request.text()}`);
    },
  });
console.log("started");

export {};
