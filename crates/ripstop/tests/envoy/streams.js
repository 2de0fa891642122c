// HTTP/2 with prior knowledge and gRPC by hand, both sides: streams.js serve PORT | streams.js call URL
const http2 = require('http2');

const frame = (text) => Buffer.concat([Buffer.from([0, 0, 0, 0, text.length]), Buffer.from(text)]);

function serve(port) {
  const server = http2.createServer();
  server.on('stream', (stream, headers) => {
    const path = headers[':path'];
    const grpc = String(headers['content-type']).startsWith('application/grpc');
    if (!grpc) {
      stream.respond({ ':status': 200 });
      stream.end(`h2 ${path}`);
      return;
    }
    stream.on('wantTrailers', () => {
      stream.sendTrailers({ 'grpc-status': path.endsWith('/Deny') ? '7' : '0', 'x-trailer': path });
    });
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('data', (data) => stream.write(data));
    stream.on('end', () => stream.end());
  });
  server.listen(port, '127.0.0.1', () => console.log('serving'));
}

function ask(client, headers, body) {
  return new Promise((resolve) => {
    const stream = client.request(headers);
    const answer = { status: 0, body: '', trailers: {} };
    stream.on('response', (head) => { answer.status = head[':status']; answer.trailers = { ...head }; });
    stream.on('trailers', (trailers) => { answer.trailers = { ...trailers }; });
    stream.on('data', (data) => { answer.body += data.toString('latin1'); });
    stream.on('close', () => resolve(answer));
    stream.end(body);
  });
}

async function call(url) {
  setTimeout(() => { console.error('no answer in time'); process.exit(2); }, 20000).unref();
  const client = http2.connect(url);
  client.on('error', (error) => { console.error(`${error}`); process.exit(1); });
  const grpc = (path) => ask(client, {
    ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers',
  }, frame('hello'));
  const [get, echo, deny] = await Promise.all([
    ask(client, { ':path': '/plain' }),
    grpc('/test.Echo/Say'),
    grpc('/test.Echo/Deny'),
  ]);
  console.log(`called: ${get.status} ${get.body}; ${echo.status} ${echo.body.slice(5)} ${echo.trailers['grpc-status']} `
    + `${echo.trailers['x-trailer']}; ${deny.status} ${deny.trailers['grpc-status']}`);
  client.close();
}

const [mode, argument] = process.argv.slice(2);
(mode === 'serve' ? serve : call)(argument);
