// The sockets of a Node program in -> rows "this outbound connection serves that inbound connection" out.
//
// Loaded with --require; RIPSTOP_TRACE names the table, a file. AsyncLocalStorage holds what the running code serves: an
// inbound connection, and how many bytes of it had been read when its request was emitted. The value is never changed in
// place, so what an old request left behind (a timer, an interval) keeps pointing at the old request, which the sidecar
// recognises by the byte count.
//
// It is set where an HTTP server emits a request, and read where an outbound request is made, not where its bytes are
// written: an agent hands its sockets over in some other request's context. The row is written before the bytes are.
// Calls through node:http, node:https without TLS and fetch (undici) are seen; a raw net.Socket and HTTP/2 are nobody's.
//
// The program must not notice: prototypes are patched and nothing is exported, no error leaves a hook, no handle is
// opened that would keep the event loop alive.
'use strict';

const HEADER = 64, SLOT = 128, PROBES = 8;
const NODE = 1; // The producer, as the table numbers it.
const KEY_KNOWN = 1, REQUEST = 2; // The states of a row; 0 is free.
const STATE = 4, PRODUCER = 5, KEY = 16, INBOUND = 64, RECEIVED = 104, END = 112;

// The table's memory, where this Node can be given any: a call to fs costs more than all else here.
function mapped() {
  try {
    const addon = { exports: {} };
    process.dlopen(addon, require('path').join(__dirname, 'preload.so'));
    return addon.exports instanceof ArrayBuffer ? Buffer.from(addon.exports) : null;
  } catch { return null; }
}

// The table. Throws when the file is not there or not of this format.
function open(path) {
  const fs = require('fs');
  const { readSync, writeSync } = fs; // What the program replaces in `fs` later is no concern of ours.
  const file = fs.openSync(path, 'r+');
  const head = Buffer.alloc(HEADER);
  readSync(file, head, 0, HEADER, 0);
  const slots = head.readUInt32LE(8);
  if (head.latin1Slice(0, 8) !== 'ripstop1' || head.readUInt32LE(12) !== SLOT || slots < PROBES ||
      (slots & (slots - 1)) !== 0 || fs.fstatSync(file).size < HEADER + slots * SLOT) {
    fs.closeSync(file);
    throw new Error('not a table of ours');
  }
  const at = (slot) => HEADER + slot * SLOT;
  const found = Buffer.alloc(END);
  const memory = mapped();
  const words = memory && new Int32Array(memory.buffer);

  const read = (into, length, slot) => {
    if (memory) memory.copy(into, 0, at(slot), at(slot) + length);
    else readSync(file, into, 0, length, at(slot));
  };

  // Where the table is a file one call writes a row. Its sequence number comes first and is even: the sidecar reads a row
  // once its request has arrived, and so after this call has returned. In memory it is odd for as long as that takes.
  const write = (slot, row) => {
    const sequence = ((row.readUInt32LE(0) | 1) + 1) >>> 0;
    row.writeUInt32LE(sequence, 0);
    if (!memory) return void writeSync(file, row, 0, END, at(slot));
    Atomics.store(words, at(slot) / 4, sequence - 1);
    row.copy(memory, at(slot) + STATE, STATE, END);
    Atomics.store(words, at(slot) / 4, sequence);
  };

  // Writes the row where its key is, or else where a row is free. Gives the slot, or -1 when all are taken.
  const claim = (row) => {
    const home = row.readUInt16LE(KEY + 32) * 31 + row.readUInt16LE(KEY + 34) * 17 + row.readUInt16BE(KEY + 30);
    const free = [];
    for (let probe = 0; probe < PROBES; probe++) {
      const slot = (home + probe) & (slots - 1);
      read(found, END, slot);
      if (found[STATE] === 0) {
        free.push(slot);
      } else if (found.compare(row, KEY, INBOUND - 12, KEY, INBOUND - 12) === 0) {
        free.unshift(slot);
        break;
      }
    }
    for (const slot of free) {
      read(row, 4, slot);
      write(slot, row);
      read(found, END, slot);
      if (found.equals(row)) return slot; // Else another process took the free slot at the same time.
    }
    return -1;
  };

  return { write, claim };
}

// An address as 16 bytes; IPv4 as ::ffff:a.b.c.d.
function address(text, into, at) {
  const [plain] = text.split('%');
  const dotted = plain.includes('.') ? plain.slice(plain.lastIndexOf(':') + 1).split('.').map(Number) : [];
  const words = (dotted.length ? plain.slice(0, plain.lastIndexOf(':') + 1) + '0:0' : plain).split('::');
  const groups = (part) => (part ? part.split(':').filter(Boolean).map((word) => parseInt(word, 16)) : []);
  const front = words.length > 1 || plain.includes(':') ? groups(words[0]) : [0, 0, 0, 0, 0, 0xffff, 0, 0];
  const back = groups(words[1]);
  front.concat(Array(8 - front.length - back.length).fill(0), back)
    .forEach((word, i) => into.writeUInt16BE(word, at + 2 * i));
  dotted.forEach((byte, i) => { into[at + 12 + i] = byte; });
}

// Both ends of a connection, as the table has them: 36 bytes.
function ends(socket) {
  const key = Buffer.alloc(36);
  address(socket.localAddress, key, 0);
  address(socket.remoteAddress, key, 16);
  key.writeUInt16LE(socket.localPort, 32);
  key.writeUInt16LE(socket.remotePort, 34);
  return key;
}

// A property of other objects that they cannot see and that ends with them: a private field, written by a constructor
// that returns them. A WeakMap would be the plain way; with an entry per request it costs the garbage collector dear.
function hidden() {
  const Itself = function (object) { return object; };
  return class Hidden extends Itself {
    #value;
    static has(object) { return #value in object; }
    static get(object) { return #value in object ? object.#value : undefined; }
    static set(object, value) {
      if (!(#value in object)) new Hidden(object);
      object.#value = value;
    }
  };
}

function install(table) {
  const http = require('http');
  const net = require('net');
  const { AsyncLocalStorage } = require('async_hooks');
  const channel = require('diagnostics_channel').channel;

  const storage = new AsyncLocalStorage();
  const inbound = hidden(); // Of an inbound socket: its two ends.
  const served = hidden(); // Of an IncomingMessage of a server: what its handlers serve.
  const made = hidden(); // Of an outbound request: what it was made for.
  const outbound = hidden(); // Of an outbound socket: its row.

  // Puts a method in the place of another, which stays as enumerable and as named as it was.
  const replace = (prototype, name, make) => {
    const original = prototype[name];
    const value = make(original);
    Object.defineProperty(value, 'name', { value: original.name });
    Object.defineProperty(value, 'length', { value: original.length });
    Object.defineProperty(prototype, name, { value, writable: true, configurable: true });
  };

  // Runs `hook` before a method.
  const before = (prototype, name, hook) => replace(prototype, name, (original) => function (...args) {
    try { hook(this, args); } catch { /* The program goes on. */ }
    return Reflect.apply(original, this, args);
  });

  // Says in the table what the bytes that are about to be written serve.
  const mark = (socket, serves) => {
    let row = outbound.get(socket);
    if (row === undefined) {
      row = { bytes: Buffer.alloc(END), slot: -1, serves: null, request: null };
      row.bytes[PRODUCER] = NODE;
      row.bytes.set(ends(socket), KEY);
      outbound.set(socket, row);
    }
    if (row.serves === serves) return row;
    row.bytes[STATE] = serves ? REQUEST : KEY_KNOWN;
    row.bytes.fill(0, INBOUND, END);
    if (serves) {
      row.bytes.set(serves.ends, INBOUND);
      row.bytes.writeUInt32LE(serves.received % 2 ** 32, RECEIVED);
      row.bytes.writeUInt32LE(Math.floor(serves.received / 2 ** 32), RECEIVED + 4);
    }
    if (row.slot < 0) row.slot = table.claim(row.bytes);
    else table.write(row.slot, row.bytes);
    row.serves = row.slot < 0 ? null : serves;
    return row;
  };

  // Inbound: a request's handlers run with what they serve.
  const requests = new Set(['request', 'checkContinue', 'checkExpectation', 'upgrade', 'connect']);
  const serving = (request) => {
    const { socket } = request;
    let key = inbound.get(socket);
    if (key === undefined) inbound.set(socket, key = ends(socket));
    const serves = { ends: key, received: socket.bytesRead };
    served.set(request, serves);
    return serves;
  };
  const within = (prototype, find) => replace(prototype, 'emit', (original) => function (...args) {
    let serves;
    try { serves = find(this, args); } catch { /* The program goes on. */ }
    if (serves === undefined) return Reflect.apply(original, this, args);
    return storage.run(serves, Reflect.apply, original, this, args);
  });
  within(http.Server.prototype, (_, [event, request]) => (requests.has(event) ? serving(request) : undefined));
  // The parser emits a body's events outside of the handler's context.
  within(http.IncomingMessage.prototype, (request) => {
    const serves = served.get(request);
    return serves === storage.getStore() ? undefined : serves;
  });

  // Outbound, node:http: the first of these three is called while the request is being made.
  const make = (request) => {
    if (!made.has(request)) made.set(request, storage.getStore());
  };
  before(http.Agent.prototype, 'addRequest', (_, [request]) => make(request));
  before(http.ClientRequest.prototype, '_implicitHeader', make);
  before(http.ClientRequest.prototype, 'onSocket', make);
  before(net.Socket.prototype, '_writeGeneric', (socket) => {
    const request = socket._httpMessage;
    if (request && !socket.connecting && made.has(request) && !socket.encrypted) mark(socket, made.get(request));
  });
  before(net.Socket.prototype, '_destroy', (socket) => {
    const row = outbound.get(socket);
    if (row === undefined) return;
    outbound.set(socket, undefined);
    if (row.slot < 0) return;
    row.bytes.fill(0, STATE);
    table.write(row.slot, row.bytes);
  });

  // Outbound, fetch.
  const created = channel('undici:request:create');
  const sent = channel('undici:client:sendHeaders');
  created.subscribe(({ request }) => made.set(request, storage.getStore()));
  sent.subscribe(({ request, socket }) => {
    try {
      if (socket.encrypted) return;
      const { request: previous } = outbound.get(socket) || {};
      const pipelined = previous && !previous.completed && !previous.aborted;
      mark(socket, pipelined ? undefined : made.get(request)).request = request;
    } catch { /* The program goes on. */ }
  });
  return [created, sent]; // A channel lives only as long as somebody holds it.
}

try {
  const path = process.env.RIPSTOP_TRACE;
  if (path) Object.defineProperty(open, 'held', { value: install(open(path)) });
} catch { /* No table: nothing to do in this process. */ }
delete require.cache[__filename];
