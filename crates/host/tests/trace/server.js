// A Node server that calls out in every way. `server.js KIND LEAF_PORT` prints its own port; KIND says with what it
// calls: fresh (http, no agent), agent (http, keep-alive), few (http, keep-alive, two sockets for all), fetch, or
// cluster: as agent, in three processes.
'use strict';

const cluster = require('cluster');
const http = require('http');
const net = require('net');

const kind = process.argv[2];
const port = Number(process.argv[3]);
const agent = new http.Agent({ keepAlive: true, maxSockets: kind === 'few' ? 2 : Infinity });
const started = new Set();

const pause = () => new Promise((done) => setTimeout(done, Math.random() * 10));

const once = (name, start) => {
  if (!started.has(name)) start(started.add(name));
};

function viaHttp(path, options) {
  return new Promise((done, failed) => {
    http.get({ host: '127.0.0.1', port, path, agent: kind === 'fresh' ? false : agent, ...options }, (response) => {
      response.on('data', () => {});
      response.on('end', done);
    }).on('error', failed);
  });
}

const viaFetch = async (path) => (await fetch(`http://127.0.0.1:${port}${path}`)).text();

const call = kind === 'fetch' ? viaFetch : viaHttp;

async function late(id) {
  for (let i = 0; i < 3; i++) {
    await pause();
    await call('/late?id=' + id);
  }
}

function poll(path) {
  call(path).catch(() => {}).then(() => setTimeout(poll, 5, path));
}

const patterns = {
  immediate: (id) => call('/leaf?id=' + id),
  delayed: async (id) => {
    await pause();
    await call('/leaf?id=' + id);
  },
  sequential: async (id) => {
    for (let i = 0; i < 3; i++) {
      await call('/leaf?id=' + id);
      await pause();
    }
  },
  fanout: (id) => Promise.all([1, 2, 3].map(() => call('/leaf?id=' + id))),
  // Callbacks from the thread pool.
  pool: (id) => new Promise((done) => {
    require('zlib').gzip('x', () => require('fs').stat('/', () => done(call('/leaf?id=' + id))));
  }),
  timer: (id) => new Promise((done) => setTimeout(() => setImmediate(() => done(call('/leaf?id=' + id))), 5)),
  // A body that is written in pieces, some of them after the head has gone.
  upload: (id) => kind === 'fetch'
    ? fetch(`http://127.0.0.1:${port}/leaf?id=${id}`, { method: 'POST', body: 'x'.repeat(100000) }).then((r) => r.text())
    : new Promise((done) => {
      const request = http.request({ host: '127.0.0.1', port, path: '/leaf?id=' + id, method: 'POST', agent }, (r) => r.resume().on('end', done));
      request.write('x');
      setTimeout(() => request.end('x'), Math.random() * 10);
    }),
  after: async (id) => {
    await call('/leaf?id=' + id);
    return () => late(id);
  },
  straggler: async (id) => {
    late(id);
    setTimeout(() => call('/late?id=' + id), Math.random() * 20);
  },
  lazy_poller: async (id) => {
    once('poller', () => poll('/late?id=' + id));
    await call('/leaf?id=' + id);
  },
};

const server = http.createServer((request, response) => {
  const query = new URL(request.url, 'http://app').searchParams;
  request.resume().on('end', async () => {
    const left = await patterns[query.get('pattern')](query.get('id'));
    response.end('ok');
    if (typeof left === 'function') await left();
  });
});

server.keepAliveTimeout = 60000;
if (kind === 'cluster' && cluster.isPrimary) {
  let listening = 0;
  cluster.on('listening', (_, { port }) => ++listening === 3 && console.log(port));
  for (let i = 0; i < 3; i++) cluster.fork();
} else {
  server.listen(0, '127.0.0.1', 128, () => {
    poll('/background');
    if (kind !== 'cluster') console.log(server.address().port);
  });
}
