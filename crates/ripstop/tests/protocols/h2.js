// HTTP/2 with prior knowledge, both sides: h2.js serve PORT | h2.js get URL...
const http2 = require('http2');

const [mode, ...rest] = process.argv.slice(2);
if (mode === 'serve') {
  http2.createServer((request, response) => response.end(`h2 ${request.headers[':path']}`)).listen(+rest[0]);
} else {
  setTimeout(() => { console.error('no answer in time'); process.exit(2); }, 20000).unref();
  const url = new URL(rest[0]);
  const client = http2.connect(url.origin);
  client.on('error', (error) => { console.error(`${error}`); process.exit(1); });
  const request = client.request({ ':path': url.pathname });
  let status, body = '';
  request.on('response', (headers) => { status = headers[':status']; });
  request.on('data', (data) => { body += data; });
  request.on('end', () => { console.log(status, body); client.close(); });
}
