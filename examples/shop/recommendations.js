// Recommendations: GET /recommendations/ID. Well-behaved; its faults are injected by the mesh (config/fault.yaml).
"use strict";
const http = require("node:http");

const port = Number(process.env.PORT || 8080);

const server = http.createServer((request, response) => {
  const match = /^\/recommendations\/([0-9]{1,6})$/.exec(request.url);
  const answer = (status, content) => {
    const body = JSON.stringify(content) + "\n";
    response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
    response.end(body);
  };
  if (request.url === "/healthz") return answer(200, { ok: true });
  if (!match) return answer(404, { error: "there is GET /recommendations/ID" });
  const id = Number(match[1]);
  answer(200, [1, 2, 3, 4, 5].filter((other) => other !== id).slice(0, 2));
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => {
    server.close(() => process.exit(0));
    server.closeIdleConnections();
    setTimeout(() => process.exit(0), 5000).unref();
  });
}
server.listen(port, () => console.log(`recommendations: listening on port ${port}`));
