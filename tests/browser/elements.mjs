// What <img>, <audio> and <video> need in each mode of `download_auth`, on a page of another site.
//
// token   (the default) An element cannot send a token, so its own request gets 401. The page fetches the file with the
//         token and shows a blob: URL. The whole file is loaded first; the player then seeks in it.
// secret  The URL is enough: `?share-secret=` for a restricted file, and nothing for others. `&thumbnail=true` and
//         `&voice=mp3` choose the form. <video> seeks with Range.
// signed  An element cannot send a token here, either. The page sends HEAD with the token; the browser follows the
//         redirect, and `response.url` is the signed URL, which any element opens. The thumbnail and the MP3 have
//         signed URLs of their own: the query goes into the HEAD. Nothing may be added to a signed URL afterwards.
//
// In the Lanying API, `access-token` and `app_id` are query parameters, too, so a URL is always enough. A `store_token`
// in place of them opens one file for one hour; it is the better choice, because a URL ends up in histories and logs.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import { APP_ID, BASE, browserTest, photoBytes, video, voice } from './harness.mjs';

const tenant = (auth) =>
  `[[tenant]]\norg = "easemob-demo"\napp = "chatdemoui"\napp_id = "${APP_ID}"\ndownload_auth = "${auth}"\n`;

// In the page: `show.image(url)`, `show.audio(url)` and `show.video(url)` use an element as an application does. They
// return what the element has, or { error }.
const SHOW = `<!doctype html>
<title>elements</title>
<script>
const failed = (element) => new Promise((resolve) => element.addEventListener('error', () => resolve({ error: true })));
const event = (element, name) => new Promise((resolve) => element.addEventListener(name, resolve, { once: true }));
const inPage = (name, attributes) => {
  const element = Object.assign(document.createElement(name), attributes);
  document.body.append(element);
  return element;
};
const show = {
  async image(src, attributes = {}) {
    const image = inPage('img', { ...attributes, src });
    await image.decode().catch(() => {});
    return image.naturalWidth > 0 ? { width: image.naturalWidth, height: image.naturalHeight } : { error: true };
  },
  // Plays a voice to its end, sixteen times as fast.
  async audio(src) {
    const audio = inPage('audio', { src, controls: true });
    audio.playbackRate = audio.defaultPlaybackRate = 16;
    const ended = event(audio, 'ended').then(() => ({ duration: audio.duration, played: audio.currentTime }));
    const error = failed(audio);
    audio.play().catch(() => {});
    return Promise.race([ended, error]);
  },
  // Seeks to the middle, to the end, and back to the start.
  async video(src) {
    const video = inPage('video', { src, preload: 'metadata' });
    const error = failed(video);
    const seek = async () => {
      await event(video, 'loadedmetadata');
      const places = [];
      for (const share of [0.5, 1, 0]) {
        video.currentTime = video.duration * share;
        await event(video, 'seeked');
        // HAVE_CURRENT_DATA: the frame at this place is there.
        places.push({ at: video.currentTime, hasFrame: video.readyState >= 2 });
      }
      return { duration: video.duration, width: video.videoWidth, places };
    };
    return Promise.race([seek(), error]);
  },
};
const blobUrl = async (url, headers) => URL.createObjectURL(await (await fetch(url, { headers })).blob());
</script>
<body></body>`;

async function open({ page, site }) {
  site.files.set('/elements', ['text/html; charset=utf-8', SHOW]);
  await page.goto(`${site.origin}/elements`);
}

const shown = (page, element, src, attributes) =>
  page.evaluate(`show.${element}(${JSON.stringify(src)}, ${JSON.stringify(attributes ?? {})})`);

// The size of the photo that all tests upload.
const PHOTO = { width: 1600, height: 1200 };

function assertThumbnail(size) {
  assert.ok(!size.error && Math.max(size.width, size.height) === 170, JSON.stringify(size));
}

function assertVoice(played) {
  assert.ok(Math.abs(played.duration - 5) < 0.2, JSON.stringify(played));
  assert.ok(Math.abs(played.played - played.duration) < 0.1, JSON.stringify(played));
}

function assertVideo(seen) {
  assert.ok(Math.abs(seen.duration - 20) < 0.2 && seen.width === 320, JSON.stringify(seen));
  const expected = [seen.duration / 2, seen.duration, 0];
  seen.places.forEach(({ at, hasFrame }, index) => {
    assert.ok(hasFrame && Math.abs(at - expected[index]) < 0.2, JSON.stringify(seen));
  });
}

// The first bytes of the ranges that the page got of this URL.
function recordRanges(page, url) {
  const starts = [];
  page.on('response', (response) => {
    if (response.url() === url && response.status() === 206) {
      starts.push(Number(/^bytes (\d+)-/.exec(response.headers()['content-range'])[1]));
    }
  });
  return starts;
}

async function store(server, headers = {}) {
  const [amr, mp4] = [await readFile(await voice()), await readFile(await video())];
  const files = {
    photo: await server.upload('a.jpg', 'image/jpeg', photoBytes(), headers),
    voice: await server.upload('a.amr', 'audio/amr', amr, headers),
    video: await server.upload('a.mp4', 'video/mp4', mp4, headers),
  };
  const url = (name, query = '') => `${server.url}${BASE}/chatfiles/${files[name].uuid}${query}`;
  return { files, url };
}

browserTest('token mode needs fetch and blob URLs', { config: tenant('token') }, async (given) => {
  const { page, server } = given;
  await open(given);
  const { url } = await store(server);
  for (const [element, src] of [
    ['image', url('photo')],
    ['image', url('photo', '?thumbnail=true')],
    ['audio', url('voice', '?voice=mp3')],
    ['video', url('video')],
  ]) {
    assert.deepEqual(await shown(page, element, src), { error: true }, src);
  }
  const authorization = `Bearer ${await server.token('alice')}`;
  const blob = (src) => page.evaluate(`blobUrl(${JSON.stringify(src)}, ${JSON.stringify({ authorization })})`);
  assert.deepEqual(await shown(page, 'image', await blob(url('photo'))), PHOTO);
  assertThumbnail(await shown(page, 'image', await blob(url('photo', '?thumbnail=true'))));
  assertVoice(await shown(page, 'audio', await blob(url('voice', '?voice=mp3'))));
  assertVideo(await shown(page, 'video', await blob(url('video'))));
  // An AMR itself is no format of browsers.
  assert.deepEqual(await shown(page, 'audio', await blob(url('voice'))), { error: true });
});

browserTest('secret mode needs nothing but the URL', { config: tenant('secret') }, async (given) => {
  const { page, server } = given;
  await open(given);
  const { files, url } = await store(server, { 'restrict-access': 'true' });
  const secret = (name) => `?share-secret=${files[name]['share-secret']}`;
  const [photo, movie] = [url('photo', secret('photo')), url('video', secret('video'))];
  assert.deepEqual(await shown(page, 'image', url('photo')), { error: true });
  assert.deepEqual(await shown(page, 'image', url('photo', secret('voice'))), { error: true });
  assert.deepEqual(await shown(page, 'image', photo), PHOTO);
  assertThumbnail(await shown(page, 'image', `${photo}&thumbnail=true`));
  // With crossorigin, a canvas may read the pixels.
  assertThumbnail(await shown(page, 'image', `${photo}&thumbnail=true&x`, { crossOrigin: 'anonymous' }));
  const pixels = await page.evaluate(() => {
    const canvas = document.createElement('canvas');
    canvas.getContext('2d').drawImage(document.querySelector('img[crossorigin]'), 0, 0);
    return canvas.toDataURL().length;
  });
  assert.ok(pixels > 100);
  assertVoice(await shown(page, 'audio', url('voice', `${secret('voice')}&voice=mp3`)));
  const starts = recordRanges(page, movie);
  assertVideo(await shown(page, 'video', movie));
  assert.ok(starts.some((start) => start > 0), `ranges that begin at ${starts}`);
  // The cover of a video is an image.
  assertThumbnail(await shown(page, 'image', `${movie}&vframe=true`));
  // A file without a secret opens by its id.
  const free = await server.upload('b.jpg', 'image/jpeg', photoBytes());
  const plain = `${server.url}${BASE}/chatfiles/${free.uuid}`;
  // The form that a header chose is in the browser's cache under the same URL, and so is a range.
  const asked = (headers) =>
    page.evaluate(async ([src, sent]) => (await (await fetch(src, { headers: sent })).blob()).size, [plain, headers]);
  assert.ok((await asked({ thumbnail: 'true' })) < photoBytes().length);
  // RFC 9110 §14.2: a server may answer a range with the whole, and must if the cached form is another one.
  assert.ok([100, photoBytes().length].includes(await asked({ Range: 'bytes=0-99' })));
  assert.deepEqual(await shown(page, 'image', plain), PHOTO);
});

// Forwards everything to the server, as a CDN does. Records the requests.
function forward(server, passed) {
  return (request, response) => {
    passed.push({ method: request.method, url: request.url, headers: request.headers });
    const options = { method: request.method, headers: { ...request.headers, host: new URL(server.url).host } };
    const onward = http.request(server.url + request.url, options, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  };
}

browserTest('signed mode needs HEAD with the token', { server: false }, async (given) => {
  const { page, site, startServer, newSite } = given;
  const cdn = await newSite();
  const server = await startServer({ config: `[cdn]\nurl = "${cdn.origin}"\n${tenant('signed')}` });
  const passed = [];
  cdn.files.delete('/');
  cdn.files.set('*', forward(server, passed));
  await open({ page, site });
  const { url } = await store(server);
  assert.deepEqual(await shown(page, 'image', url('photo')), { error: true });

  const authorization = `Bearer ${await server.token('alice')}`;
  const signed = async (src) => {
    const found = await page.evaluate(
      async ([from, headers]) => {
        const response = await fetch(from, { method: 'HEAD', headers });
        const length = response.headers.get('content-length');
        return { status: response.status, url: response.url, redirected: response.redirected, length };
      },
      [src, { authorization }],
    );
    assert.ok(found.status === 200 && found.redirected && found.url.startsWith(cdn.origin), JSON.stringify(found));
    return found;
  };
  const photo = await signed(url('photo'));
  // The head says how large the file is, before anything is loaded.
  assert.equal(Number(photo.length), photoBytes().length);
  assert.deepEqual(await shown(page, 'image', photo.url), PHOTO);
  assertThumbnail(await shown(page, 'image', (await signed(url('photo', '?thumbnail=true'))).url));
  assertVoice(await shown(page, 'audio', (await signed(url('voice', '?voice=mp3'))).url));
  const movie = await signed(url('video'));
  const starts = recordRanges(page, movie.url);
  assertVideo(await shown(page, 'video', movie.url));
  assert.ok(starts.some((start) => start > 0), `ranges that begin at ${starts}`);
  // A signed URL cannot be changed into that of another form.
  assert.deepEqual(await shown(page, 'image', `${photo.url}&thumbnail=true`), { error: true });
  // The browser does not carry the token to the CDN.
  assert.ok(passed.length > 4 && passed.every(({ headers }) => headers.authorization === undefined));
  // An ordinary fetch with the token follows the redirect by itself.
  const size = await page.evaluate(
    async ([from, headers]) => (await (await fetch(from, { headers })).blob()).size,
    [url('photo'), { authorization }],
  );
  assert.equal(size, photoBytes().length);
  // The elements follow a redirect, too: a URL of the Lanying API carries its credential.
  const ticket = await send(server, 101, 'a.amr', 'audio/amr', await readFile(await voice()));
  const credential = `&app_id=${APP_ID}&access-token=${await server.token('bob')}`;
  assertVoice(await shown(page, 'audio', `${ticket.download_url}${credential}&format=mp3`));
  assert.ok(passed.at(-1).url.startsWith('/file/download/chat?'), passed.at(-1).url);
});

// Uploads a file with a ticket of the Lanying API, from alice to bob. Returns the ticket.
async function send(server, fileType, name, type, bytes) {
  const headers = { 'access-token': await server.token('alice'), app_id: APP_ID };
  const query = `file_type=${fileType}&to_type=1&to_id=bob`;
  const ticket = (await (await fetch(`${server.url}/file/upload/chat?${query}`, { headers })).json()).data;
  const form = new FormData();
  for (const [field, value] of Object.entries(ticket.oss_body_param)) {
    form.append(field, value);
  }
  form.append('file', new Blob([bytes], { type }), name);
  const sent = await fetch(ticket.upload_url, { method: 'POST', body: form });
  assert.ok(sent.ok, await sent.text());
  return ticket;
}

browserTest('Lanying URLs carry their credential', {}, async (given) => {
  const { page, server } = given;
  await open(given);
  const photo = await send(server, 102, 'a.jpg', 'image/jpeg', photoBytes());
  const amr = await send(server, 101, 'a.amr', 'audio/amr', await readFile(await voice()));
  const mp4 = await send(server, 103, 'a.mp4', 'video/mp4', await readFile(await video()));
  const credential = `&app_id=${APP_ID}&access-token=${await server.token('alice')}`;
  assert.deepEqual(await shown(page, 'image', photo.download_url), { error: true });
  assert.deepEqual(await shown(page, 'image', photo.download_url + credential), PHOTO);
  assertThumbnail(await shown(page, 'image', `${photo.download_url}${credential}&image_type=2`));
  assertVoice(await shown(page, 'audio', `${amr.download_url}${credential}&format=mp3`));
  const movie = `${mp4.download_url}&app_id=${APP_ID}&store_token=${mp4.store_token}`;
  const starts = recordRanges(page, movie);
  assertVideo(await shown(page, 'video', movie));
  assert.ok(starts.some((start) => start > 0), `ranges that begin at ${starts}`);
  // The store token is for this file only.
  const other = `${photo.download_url}&app_id=${APP_ID}&store_token=${mp4.store_token}`;
  assert.deepEqual(await shown(page, 'image', other), { error: true });
});
