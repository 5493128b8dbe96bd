// Uploads by a page of another site, through a real file input and XMLHttpRequest, which reports progress.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { APP_ID, BASE, browserTest, photo, photoBytes, video } from './harness.mjs';

/** Upload bytes per second of the browser, so that the video takes long enough for several progress events. */
const SLOW = 6 << 20;

const PAGE = `<!doctype html>
<title>upload</title>
<input type="file" id="file">
<progress id="progress" value="0" max="1"></progress>
<img id="shown" alt="">`;

async function open({ page, site }) {
  site.files.set('/upload', ['text/html; charset=utf-8', PAGE]);
  await page.goto(`${site.origin}/upload`);
  const devtools = await page.context().newCDPSession(page);
  const unlimited = { offline: false, latency: 0, downloadThroughput: -1 };
  await devtools.send('Network.emulateNetworkConditions', { ...unlimited, uploadThroughput: SLOW });
}

// Sends the chosen file as the last part of a form. Resolves to status, body, and the steps of the progress.
function send(page, request) {
  return page.evaluate(
    ({ url, headers, fields }) =>
      new Promise((resolve, reject) => {
        const form = new FormData();
        for (const [name, value] of Object.entries(fields ?? {})) {
          form.append(name, value);
        }
        form.append('file', document.querySelector('#file').files[0]);
        const steps = [];
        const call = new XMLHttpRequest();
        call.upload.onprogress = ({ loaded, total, lengthComputable }) => {
          steps.push({ loaded, total, lengthComputable });
          document.querySelector('#progress').value = loaded / total;
        };
        call.onload = () => resolve({ status: call.status, body: call.responseText, steps });
        call.onerror = () => reject(new Error('the browser does not show the response'));
        call.open('POST', url);
        for (const [name, value] of Object.entries(headers ?? {})) {
          call.setRequestHeader(name, value);
        }
        call.send(form);
      }),
    request,
  );
}

async function checkProgress(page, { steps }, file) {
  const { size } = await stat(file);
  const last = steps.at(-1);
  assert.ok(steps.every((step) => step.lengthComputable && step.total === last.total));
  assert.ok(last.loaded === last.total && last.total > size, JSON.stringify(last));
  const partly = steps.filter((step) => step.loaded > 0 && step.loaded < step.total);
  assert.ok(partly.length > 1, `progress in steps: ${JSON.stringify(steps)}`);
  assert.ok(steps.every((step, at) => at === 0 || step.loaded >= steps[at - 1].loaded));
  assert.equal(await page.evaluate(() => document.querySelector('#progress').value), 1);
}

// Shows an image and returns its size in pixels; the image must load.
function show(page, src) {
  return page.evaluate(async (url) => {
    const image = document.querySelector('#shown');
    image.src = url;
    await image.decode();
    return [image.naturalWidth, image.naturalHeight];
  }, src);
}

const blobUrl = (page, url, headers) =>
  page.evaluate(
    async ([from, sent]) => {
      const response = await fetch(from, { headers: sent });
      if (response.status !== 200) {
        throw new Error(`${response.status}: ${await response.text()}`);
      }
      return URL.createObjectURL(await response.blob());
    },
    [url, headers],
  );

browserTest('Easemob upload shows progress and thumbnail', {}, async (given) => {
  const { page, server } = given;
  await open(given);
  const authorization = `Bearer ${await server.token('alice')}`;
  const files = `${server.url}${BASE}/chatfiles`;
  const headers = { Authorization: authorization, 'restrict-access': 'true' };

  await page.setInputFiles('#file', await video());
  const sent = await send(page, { url: files, headers });
  assert.equal(sent.status, 200, sent.body);
  await checkProgress(page, sent, await video());
  const [stored] = JSON.parse(sent.body).entities;
  const secret = { Authorization: authorization, 'share-secret': stored['share-secret'] };
  const back = await page.evaluate(
    async ([url, sentHeaders]) => {
      const bytes = await (await fetch(url, { headers: sentHeaders })).arrayBuffer();
      return [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))];
    },
    [`${files}/${stored.uuid}`, secret],
  );
  const uploaded = createHash('sha256').update(await readFile(await video())).digest();
  assert.deepEqual(Buffer.from(back), uploaded, 'the bytes of the file');

  await page.setInputFiles('#file', photo());
  const picture = await send(page, { url: files, headers: { Authorization: authorization } });
  const [{ uuid }] = JSON.parse(picture.body).entities;
  const url = `${files}/${uuid}`;
  const small = await blobUrl(page, `${url}?thumbnail=true`, { Authorization: authorization });
  const [width, height] = await show(page, small);
  assert.ok(Math.max(width, height) === 170, `${width} × ${height}`);
  const whole = await show(page, await blobUrl(page, url, { Authorization: authorization }));
  assert.ok(whole[0] > 170, `${whole}`);
});

browserTest('Easemob refusal is readable', { flags: ['--upload-bytes-max', '100000'] }, async (given) => {
  const { page, server } = given;
  await open(given);
  const authorization = `Bearer ${await server.token('alice')}`;
  const url = `${server.url}${BASE}/chatfiles`;
  await page.setInputFiles('#file', photo());
  assert.ok(photoBytes().length > 100_000);
  const large = await send(page, { url, headers: { Authorization: authorization } });
  assert.equal(large.status, 413);
  assert.equal(JSON.parse(large.body).error_description, 'the file size exceeds the maximum limit.');
  const stranger = await send(page, { url, headers: { Authorization: 'Bearer x' } });
  assert.equal(stranger.status, 401);
  assert.equal(JSON.parse(stranger.body).error, 'auth_bad_access_token');
});

browserTest('Lanying upload shows progress and thumbnail', {}, async (given) => {
  const { page, server } = given;
  await open(given);
  const headers = { 'access-token': await server.token('alice'), app_id: APP_ID };
  const ticketOf = (fileType) =>
    page.evaluate(
      async ([url, sent]) => (await (await fetch(url, { headers: sent })).json()).data,
      [`${server.url}/file/upload/chat?file_type=${fileType}&to_type=1&to_id=bob`, headers],
    );

  const ticket = await ticketOf(103);
  await page.setInputFiles('#file', await video());
  const sent = await send(page, { url: ticket.upload_url, fields: ticket.oss_body_param });
  assert.ok(sent.status === 200 || sent.status === 204, sent.body);
  await checkProgress(page, sent, await video());

  const pictureTicket = await ticketOf(102);
  await page.setInputFiles('#file', photo());
  const picture = await send(page, { url: pictureTicket.upload_url, fields: pictureTicket.oss_body_param });
  assert.ok(picture.status === 200 || picture.status === 204, picture.body);
  const small = await blobUrl(page, `${pictureTicket.download_url}&image_type=2`, headers);
  const [width, height] = await show(page, small);
  assert.ok(Math.max(width, height) === 170, `${width} × ${height}`);
  // The ticket is for one upload.
  const again = await send(page, { url: pictureTicket.upload_url, fields: pictureTicket.oss_body_param });
  assert.equal(again.status, 409);
});
