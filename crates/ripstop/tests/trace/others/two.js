// HTTP/2 on one side: `into` takes it and calls over HTTP/1, `outof` takes HTTP/1 and calls `into` over HTTP/2.
const http = require('http');
const http2 = require('http2');

const kind = process.argv[2];
const number = (url) => (/id=(\d+)/.exec(url) || [])[1];
let session;

function call(id, done) {
  if (kind === 'into') return void http.get(`http://leaf/?id=${id}&by=into`, (got) => got.resume().on('end', done));
  if (!session || session.closed || session.destroyed) {
    session = http2.connect('http://into');
    session.on('error', () => {});
  }
  session.request({ ':path': `/?id=${id}&by=outof` }).on('error', done).on('end', done).resume().end();
}

function serve(request, response) {
  const id = number(request.url);
  id ? call(id, () => response.end()) : response.end();
}

(kind === 'into' ? http2.createServer(serve) : http.createServer(serve)).listen(8080);
