// Calls `middle` by fetch and `leaf` by node:http, both at once, for every request.
const http = require('http');

const get = (url) => new Promise((done, failed) => {
  http.get(url, (answer) => { answer.resume(); answer.on('end', done); }).on('error', failed);
});

http.createServer(async (request, response) => {
  if (request.url === '/healthz') return response.end('ok');
  const id = new URL(request.url, 'http://front').searchParams.get('id');
  await Promise.all([
    fetch(`http://middle/?id=${id}`).then((answer) => answer.text()),
    get(`http://leaf/?id=${id}&by=front`),
  ]);
  response.end(id);
}).listen(8080);
