// What node makes of a request, as JSON: `node app.js PORT`.
const http = require('http');

http.createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    let read = request.url;
    try {
      read = decodeURIComponent(new URL(request.url, 'http://app').pathname);
    } catch {
      // An application that does not decode sees what was sent.
    }
    response.end(JSON.stringify({
      method: request.method,
      target: request.url,
      read,
      host: request.headers.host,
      seen: request.headers['x-seen'],
      body: Buffer.concat(pieces).toString('latin1'),
    }));
  });
}).listen(Number(process.argv[2]), '127.0.0.1', () => console.log('serving'));
