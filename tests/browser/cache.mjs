// The browser's cache, which stores several representations of one file under one URL.
//
// When a page requests another representation, Chromium revalidates the stored one: with If-None-Match, and with a
// Range of the bytes that it has, without If-Range. It would then take a 206 for the whole file, and the page would get
// a part of it. So every order of representations and ranges is requested here, and each response must be complete.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { BASE, browserTest, clip, photoBytes, voice } from './harness.mjs';

/** The ranges that a page requests; undefined is the whole file. */
const RANGES = [undefined, 'bytes=0-', 'bytes=0-99', 'bytes=100-', 'bytes=-100'];

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

// In the page: runs each case, a list of requests one after the other. The URLs of the cases differ, so a few run at once.
async function run(cases) {
  const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const ask = async ({ url, headers }) => {
    const response = await fetch(url, { headers });
    const body = await response.arrayBuffer();
    return {
      status: response.status,
      // A cached response has the request id of the original response.
      id: response.headers.get('x-request-id'),
      range: response.headers.get('content-range'),
      length: body.byteLength,
      sha256: hex(await crypto.subtle.digest('SHA-256', body)),
    };
  };
  const results = cases.map(() => []);
  const waiting = cases.entries();
  const runSome = async () => {
    for (const [at, steps] of waiting) {
      for (const step of steps) {
        results[at].push(await ask(step).catch((error) => ({ status: 0, error: String(error) })));
      }
    }
  };
  await Promise.all([runSome(), runSome(), runSome(), runSome()]);
  return results;
}

// Whether the page got this representation completely, or the part that the response names if it requested a part.
//
// The part may differ from the requested one: Chromium ends an open range at the length of the representation that it
// has, and Content-Range says so.
function isMet({ form, range }, answer) {
  if (answer.status === 200) {
    return answer.sha256 === sha256(form.bytes);
  }
  const [, first, last, length] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(answer.range ?? '') ?? [];
  const part = form.bytes.subarray(Number(first), Number(last) + 1);
  const isPart = answer.status === 206 && range !== undefined && Number(length) === form.bytes.length;
  return isPart && answer.sha256 === sha256(part);
}

// A file, and its two representations: the header that selects each, and the bytes.
async function stored(server, authorization, [name, type, bytes, made]) {
  const { uuid } = await server.upload(name, type, bytes);
  const path = `${BASE}/chatfiles/${uuid}`;
  const forms = [];
  for (const header of [{}, made]) {
    const response = await fetch(server.url + path, { headers: { authorization, ...header } });
    assert.equal(response.status, 200, name);
    forms.push({ name: Object.keys(header)[0] ?? 'stored', header, bytes: Buffer.from(await response.arrayBuffer()) });
  }
  assert.notEqual(sha256(forms[0].bytes), sha256(forms[1].bytes), name);
  return { path, forms };
}

browserTest('every form arrives whole', {}, async ({ page, server, site }) => {
  const authorization = `Bearer ${await server.token('alice')}`;
  const thumbnail = { thumbnail: 'true' };
  const files = [];
  for (const file of [
    ['a.jpg', 'image/jpeg', photoBytes(), thumbnail],
    ['a.amr', 'audio/amr', await readFile(await voice()), { Accept: 'audio/mp3' }],
    ['a.mp4', 'video/mp4', await readFile(await clip()), thumbnail],
  ]) {
    files.push(await stored(server, authorization, file));
  }
  const [cases, expected] = [[], []];
  for (const { path, forms } of files) {
    const [own, made] = forms;
    for (const [first, second] of [[own, made], [made, own], [own, own], [made, made]]) {
      for (const [a, b] of RANGES.flatMap((x) => RANGES.map((y) => [x, y]))) {
        // The last one again without a range: the cache's combined response must be complete, too.
        const steps = [
          { form: first, range: a },
          { form: second, range: b },
          { form: second, range: undefined },
        ];
        // Unknown parameters change nothing, so each case has its own entry in the browser's cache.
        const url = `${server.url}${path}?case=${cases.length}`;
        const headers = ({ form, range }) => ({ authorization, ...form.header, ...(range && { Range: range }) });
        cases.push(steps.map((step) => ({ url, headers: headers(step) })));
        expected.push(steps);
      }
    }
  }
  await page.goto(site.origin);
  const results = await page.evaluate(run, cases);
  assert.equal(results.length, expected.length);
  const wrong = [];
  let fromCache = 0;
  results.forEach((answers, at) => {
    fromCache += answers[1].id === answers[2].id ? 1 : 0;
    expected[at].forEach((step, index) => {
      if (!isMet(step, answers[index])) {
        const words = expected[at].map(({ form, range }) => `${form.name} ${range ?? 'whole'}`).join(', ');
        wrong.push(`request ${index + 1} of (${words}): ${JSON.stringify(answers[index])}`);
      }
    });
  });
  assert.deepEqual(wrong, []);
  // Otherwise the browser cached nothing, and the test proves nothing.
  assert.ok(fromCache > 0, 'the cache of the browser was never used');
});
