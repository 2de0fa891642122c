// The front end: GET / is the page, GET /product/ID one product as JSON, put together from four other services.
//
// A service that does not answer leaves a gap in the page ("missing"); only the catalog is needed.
"use strict";
const http = require("node:http");

const port = Number(process.env.PORT || 8080);
const at = (name) => process.env[name.toUpperCase()] || `http://${name}`;

// The parsed JSON of a 200 answer; an error otherwise.
function fetchJson(url) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { headers: { accept: "application/json" } }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (part) => (text += part));
      response.on("error", reject);
      response.on("end", () => {
        if (response.statusCode !== 200) {
          return reject(Object.assign(new Error(`${url}: ${response.statusCode}`), { status: response.statusCode }));
        }
        try {
          resolve(JSON.parse(text));
        } catch (error) {
          reject(error);
        }
      });
    });
    request.on("error", reject);
  });
}

async function product(id) {
  const parts = {
    price: `${at("prices")}/prices/${id}`,
    reviews: `${at("reviews")}/reviews/${id}`,
    recommendations: `${at("recommendations")}/recommendations/${id}`,
  };
  const names = Object.keys(parts);
  const [item, ...answers] = await Promise.all([
    fetchJson(`${at("catalog")}/products/${id}`),
    ...names.map((name) => fetchJson(parts[name]).catch(() => null)),
  ]);
  names.forEach((name, index) => (item[name] = answers[index]));
  item.missing = names.filter((name) => item[name] === null);
  return item;
}

async function page() {
  const { products } = await fetchJson(`${at("catalog")}/products`);
  const rows = products.map(({ id, name }) => `<li><a href="/product/${id}">${name}</a></li>`);
  return `<!doctype html><title>Shop</title><h1>Shop</h1><ul>${rows.join("")}</ul>\n`;
}

const server = http.createServer(async (request, response) => {
  const answer = (status, type, body) => {
    response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) });
    response.end(body);
  };
  const one = /^\/product\/([0-9]{1,6})$/.exec(request.url);
  try {
    if (request.url === "/healthz") answer(200, "text/plain", "ok\n");
    else if (request.url === "/") answer(200, "text/html; charset=utf-8", await page());
    else if (one) answer(200, "application/json", JSON.stringify(await product(one[1])) + "\n");
    else answer(404, "text/plain", "there are / and /product/ID\n");
  } catch (error) {
    if (error.status === 404) answer(404, "text/plain", "no such product\n");
    else answer(502, "text/plain", `the catalog gave no answer: ${error.message}\n`);
  }
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => {
    server.close(() => process.exit(0));
    server.closeIdleConnections();
    setTimeout(() => process.exit(0), 5000).unref();
  });
}
server.listen(port, () => console.log(`shop: listening on port ${port}`));
