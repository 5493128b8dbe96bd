// An application on Node.js without packages: uses the server through fetch, node:https and node:http2.
//
//   node node.mjs https://HOST:PORT/ORG/APP TOKEN FILE PICTURE
//
// Prints the ids of all uploads as JSON. NODE_EXTRA_CA_CERTS names the server's CA.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import http2 from 'node:http2';
import https from 'node:https';
import { buffer } from 'node:stream/consumers';

const [base, token, ...paths] = process.argv.slice(2);
const [file, picture] = await Promise.all(paths.map((path) => readFile(path)));
const STREAMS = 10;

setTimeout(() => {
  console.error('out of time');
  process.exit(1);
}, 90_000).unref();

// Each client is a function of method, path below the base, headers, and an optional form. It returns status, headers by
// name, and the bytes of the body.

async function byFetch(method, path, headers, form) {
  const response = await fetch(base + path, { method, headers, body: form });
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    body: Buffer.from(await response.arrayBuffer()),
  };
}

const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
let connections = 0;

async function byHttps(method, path, headers, form) {
  const { fields, bytes } = await encode(form);
  const request = https.request(base + path, { method, agent, headers: { ...headers, ...fields } });
  request.end(bytes);
  const [response] = await once(request, 'response');
  assert.equal(response.httpVersion, '1.1');
  connections += request.reusedSocket ? 0 : 1;
  return { status: response.statusCode, headers: response.headers, body: await buffer(response) };
}

const { origin, pathname } = new URL(base);
let session;

async function byHttp2(method, path, headers, form) {
  const { fields, bytes } = await encode(form);
  const request = session.request({ ':method': method, ':path': pathname + path, ...headers, ...fields });
  request.end(bytes);
  const [answered] = await once(request, 'response');
  return { status: answered[':status'], headers: answered, body: await buffer(request) };
}

// A form encoded by node.
async function encode(form) {
  if (!form) {
    return { fields: {} };
  }
  const response = new Response(form);
  const bytes = Buffer.from(await response.arrayBuffer());
  const fields = { 'content-type': response.headers.get('content-type'), 'content-length': bytes.length };
  return { fields, bytes };
}

const authorization = `Bearer ${token}`;

async function upload(call, name, type, bytes) {
  const form = new FormData();
  form.append('file', new Blob([bytes], { type }), name);
  const answer = await call('POST', '/chatfiles', { authorization }, form);
  const json = JSON.parse(answer.body);
  assert.equal(answer.status, 200, JSON.stringify(json));
  assert.equal(json.uri, `${base}/chatfiles`);
  return json.entities[0].uuid;
}

// Everything that an application does, with one client.
async function check(call) {
  const id = await upload(call, 'Datei ä.bin', 'application/octet-stream', file);
  const path = `/chatfiles/${id}`;
  const whole = await call('GET', path, { authorization });
  assert.equal(whole.status, 200);
  assert.equal(whole.headers['content-length'], String(file.length));
  assert.ok(whole.body.equals(file), 'the bytes that were uploaded');

  const part = await call('GET', path, { authorization, range: 'bytes=1000-200999' });
  assert.equal(part.status, 206);
  assert.equal(part.headers['content-range'], `bytes 1000-200999/${file.length}`);
  assert.ok(part.body.equals(file.subarray(1000, 201_000)), 'the range that was asked for');

  const shown = await upload(call, 'a.jpg', 'image/jpeg', picture);
  const thumbnail = await call('GET', `/chatfiles/${shown}`, { authorization, thumbnail: 'true' });
  assert.equal(thumbnail.status, 200);
  assert.equal(thumbnail.headers['content-type'], 'image/jpeg');
  assert.ok(thumbnail.body.length < picture.length);
  assert.deepEqual([...thumbnail.body.subarray(0, 2)], [0xff, 0xd8]);

  const refused = await call('GET', path, { authorization: 'Bearer x' });
  assert.equal(refused.status, 401);
  assert.match(refused.headers['content-type'], /^application\/json/);
  assert.equal(typeof JSON.parse(refused.body).error_description, 'string');
  return id;
}

// A refusal that arrives while the form is being sent.
async function checkTooLarge(call) {
  const form = new FormData();
  form.append('file', new Blob([Buffer.alloc((10 << 20) + 1)]), 'large.bin');
  const refused = await call('POST', '/chatfiles', { authorization }, form);
  assert.equal(refused.status, 413);
  assert.equal(typeof JSON.parse(refused.body).error, 'string');
}

const ids = [];
for (const call of [byFetch, byHttps]) {
  ids.push(await check(call));
  await checkTooLarge(call);
}
assert.equal(connections, 1, 'one connection was kept for all of node:https');
agent.destroy();

session = http2.connect(origin);
session.on('goaway', (code) => assert.fail(`the server ends the session: ${code}`));
await once(session, 'connect');
assert.equal(session.alpnProtocol, 'h2');
ids.push(...(await Promise.all(Array.from({ length: STREAMS }, () => check(byHttp2)))));
await checkTooLarge(byHttp2);
session.close();
console.log(JSON.stringify(ids));
