// CORS as a browser enforces it: any origin by default, and only `cors.allowed_origins` where it is set.
import assert from 'node:assert/strict';
import { BASE, browserTest, photoBytes } from './harness.mjs';

// What a page sees of a request: status and body, or that the browser hides the response.
const ask = (page, url, init = {}) =>
  page.evaluate(
    async ([target, { form, ...options }]) => {
      if (form) {
        options.body = new FormData();
        options.body.append('file', new Blob([new Uint8Array(form)]), 'a.bin');
      }
      try {
        const response = await fetch(target, options);
        const { size } = await response.clone().blob();
        const headers = Object.fromEntries(response.headers);
        const isJson = headers['content-type']?.startsWith('application/json');
        return { status: response.status, size, headers, json: isJson ? await response.json() : undefined };
      } catch (error) {
        return { hidden: String(error) };
      }
    },
    [url, init],
  );

async function requests(server) {
  const authorization = `Bearer ${await server.token('alice')}`;
  const { uuid } = await server.upload('a.jpg', 'image/jpeg', photoBytes());
  const files = `${server.url}${BASE}/chatfiles`;
  return {
    upload: [files, { method: 'POST', headers: { authorization, 'restrict-access': 'true' }, form: [1, 2, 3] }],
    download: [`${files}/${uuid}`, { headers: { authorization } }],
    range: [`${files}/${uuid}`, { headers: { authorization, range: 'bytes=5-9' } }],
    // A simple request: no preflight, but the response is hidden all the same.
    unauthorized: [`${files}/${uuid}`],
    parts: [`${server.url}${BASE}/sdk/chatfiles/part-upload`, { method: 'POST', headers: { authorization } }],
  };
}

async function assertAllowed(page, server) {
  const { upload, download, range, unauthorized, parts } = await requests(server);
  const uploaded = await ask(page, ...upload);
  assert.equal(uploaded.status, 200, JSON.stringify(uploaded));
  assert.ok(uploaded.json.entities[0]['share-secret']);
  const whole = await ask(page, ...download);
  assert.deepEqual([whole.status, whole.size], [200, photoBytes().length]);
  assert.ok(whole.headers.etag && whole.headers['x-request-id']);
  const part = await ask(page, ...range);
  assert.deepEqual([part.status, part.size], [206, 5]);
  assert.equal(part.headers['content-range'], `bytes 5-9/${photoBytes().length}`);
  const refused = await ask(page, ...unauthorized);
  assert.deepEqual([refused.status, refused.json.error], [401, 'unauthorized']);
  assert.equal((await ask(page, ...parts)).status, 200);
}

browserTest('any origin by default', {}, async ({ page, server, site }) => {
  await page.goto(site.origin);
  await assertAllowed(page, server);
});

browserTest('listed origin and no other', { server: false }, async ({ page, newPage, site, startServer, newSite }) => {
  const server = await startServer({ config: `[cors]\nallowed_origins = ["${site.origin}"]\n` });
  await page.goto(site.origin);
  await assertAllowed(page, server);
  const stranger = await newPage();
  await stranger.goto((await newSite()).origin);
  for (const [name, request] of Object.entries(await requests(server))) {
    const seen = await ask(stranger, ...request);
    assert.match(seen.hidden ?? JSON.stringify(seen), /TypeError: Failed to fetch/, name);
  }
});

browserTest('rate limit is readable', { flags: ['--calls-per-second', '1'] }, async ({ page, server, site }) => {
  await page.goto(site.origin);
  const url = `${server.url}/no/such/path`;
  // The burst is 30 requests. More are sent, in case the bucket refills in between.
  const seen = await page.evaluate(async (target) => {
    const responses = await Promise.all(Array.from({ length: 100 }, () => fetch(target)));
    const refused = responses.find((response) => response.status === 503);
    return { retryAfter: refused?.headers.get('retry-after'), error: (await refused?.json())?.error };
  }, url);
  assert.deepEqual(seen, { retryAfter: '1', error: 'reach_limit' });
});

// CORS decides what scripts read. An element shows a file on any page, if its URL is enough.
browserTest('elements do not need CORS', { server: false }, async ({ page, site, startServer, newSite }) => {
  const tenant = '[[tenant]]\norg = "easemob-demo"\napp = "chatdemoui"\ndownload_auth = "secret"\n';
  const server = await startServer({ config: `[cors]\nallowed_origins = ["${site.origin}"]\n${tenant}` });
  const { uuid } = await server.upload('a.jpg', 'image/jpeg', photoBytes());
  const url = `${server.url}${BASE}/chatfiles/${uuid}?thumbnail=true`;
  await page.goto((await newSite()).origin);
  const width = (crossOrigin) =>
    page.evaluate(
      async ([src, mode]) => {
        const image = Object.assign(new Image(), { crossOrigin: mode, src });
        await image.decode().catch(() => {});
        return image.naturalWidth;
      },
      [url, crossOrigin],
    );
  assert.equal(await width(null), 170);
  assert.equal(await width('anonymous'), 0);
  assert.ok((await ask(page, url)).hidden);
});
