// Asks for the answers of TestRealClients as Node's own clients do, and prints what came.
const http = require("node:http");
const base = process.argv[2];
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function ask(path, options = {}, body = []) {
  return new Promise((resolve, reject) => {
    const got = { interim: [], continued: false };
    const request = http.request(base + path, { agent, ...options }, (response) => {
      let text = "";
      response.on("data", (data) => (text += data));
      response.on("end", () => resolve({ ...got, status: response.statusCode, headers: response.headers, text }));
      response.on("error", reject);
    });
    request.on("information", (info) => got.interim.push([info.statusCode, info.headers.link]));
    request.on("error", reject);
    const send = () => {
      for (const piece of body) request.write(piece);
      request.end();
    };
    if (options.headers && options.headers.Expect) {
      request.on("continue", () => {
        got.continued = true;
        send();
      });
      request.flushHeaders();
    } else send();
  });
}

async function main() {
  const said = [];
  for (const at of ["/orders/7", "/else"]) {
    let a = await ask(at + "/hints");
    said.push(`hints ${JSON.stringify(a.interim)} ${a.status} ${a.text}`);
    a = await ask(at + "/sink", { method: "PUT" }, ["a".repeat(70000), "b".repeat(70000)]);
    said.push(`chunks ${a.status} ${a.text}`);
    a = await ask(at + "/sink", { method: "PUT", headers: { Expect: "100-continue", "Content-Length": 4 } }, ["body"]);
    said.push(`continue ${a.continued} ${a.status} ${a.text}`);
    a = await ask(at + "/file", { headers: { Range: "bytes=2-5" } });
    said.push(`range ${a.status} ${a.headers["content-range"]} ${a.text}`);
    a = await ask(at + "/file", { headers: { "If-None-Match": '"v1"' } });
    said.push(`unmodified ${a.status} ${a.headers.etag} [${a.text}]`);
    a = await ask(at + "/file", { method: "HEAD" });
    said.push(`head ${a.status} ${a.headers["content-length"]} [${a.text}]`);
    a = await ask(at + "/cookies");
    said.push(`cookies ${a.headers["set-cookie"].join(" | ")}`);
    const fetched = await fetch(base + at + "/cookies");
    said.push(`fetch ${fetched.headers.getSetCookie().join(" | ")} ${await fetched.text()}`);
  }
  const events = await fetch(base + "/events");
  let text = "";
  for await (const data of events.body) {
    text += Buffer.from(data);
    const seen = text.split("\n\n").length - 1;
    await fetch(`${base}/seen?${seen}`, { method: "POST" }); // or no more will come
  }
  said.push(`events ${text.trim().replaceAll("\n\n", " ")}`);
  agent.destroy();
  console.log(said.join("\n"));
}
main().catch((err) => {
  console.error(err);
  process.exit(1);
});
