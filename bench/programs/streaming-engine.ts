/** An engine that takes as long for each of its tokens as its second argument says, in milliseconds. */

const [port = "0", tokenMs = "5"] = process.argv.slice(2);
const tokens = 20;

Bun.serve({
  port: Number(port),
  hostname: "127.0.0.1",
  fetch: (request) => {
    if (request.method !== "POST") return new Response();
    const body = new ReadableStream<string>({
      async start(output) {
        for (let token = 0; token < tokens; token++) {
          await Bun.sleep(Number(tokenMs));
          output.enqueue(`data: {"choices":[{"index":0,"text":"token ${token}"}]}\n\n`);
        }
        output.enqueue("data: [DONE]\n\n");
        output.close();
      },
    });
    return new Response(body.pipeThrough(new TextEncoderStream()), {
      headers: { "content-type": "text/event-stream" },
    });
  },
});

export {};
