// Runs a test in Debian's Chromium against a fresh server. scripts/browser runs all tests of this folder with it.
//
//   import assert from 'node:assert/strict';
//   import { BASE, browserTest } from './harness.mjs';
//
//   browserTest('opens the page', { config: '[server]\n' }, async ({ page, server, site }) => {
//     await page.goto(`${server.url}/`);
//   });
//
// A test gets:
//   server  a server of its own: an empty store, free ports, no rate limit; { url, operator, store, token(user), … }
//   site    a web server for the test's pages, of another origin and another site: localhost instead of 127.0.0.1
//   page    a page of Playwright in a browser context of its own, so that no cache is shared
//   newPage, newSite, startServer  open another page (with options of Playwright's newContext), site or server
// All of them end with the test. An uncaught error of a page fails the test. One browser serves all tests.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

// scripts/browser installs the packages outside of the source tree, so a plain import does not find them.
const { chromium } = createRequire(path.join(variable('BROWSER_PACKAGES'), 'package.json'))('playwright-core');
const program = path.resolve(variable('CHATFILES'));
const run = promisify(execFile);

/** Path prefix of the tenant that a server has without a configuration. */
export const BASE = '/easemob-demo/chatdemoui';
/** The name of the same tenant in the Lanying API. */
export const APP_ID = 'welovemaxim';

/** Much more than a test needs on a busy machine. */
const TEST_MS_MAX = 120_000;
/** The same for one wait within a test: an element, an event, a navigation. */
const WAIT_MS_MAX = 20_000;

/** Time for a server to stop. */
const STOP_MS_MAX = 3_000;

/** A directory for files of this run, removed at its end. */
const scratch = mkdtempSync(path.join(tmpdir(), 'chatfiles-browser-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
// scripts/browser ends the tests with it after its time limit. `exit` ends what they have started.
process.once('SIGTERM', () => process.exit(143));

function variable(name) {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: run scripts/browser`);
  return value;
}

/**
 * Declares a test. `options`, all optional:
 *   config  TOML text, or a function of the site's origin that returns it
 *   flags   more flags of `chatfiles serve`; they override the configuration
 *   server  false: the test starts its servers itself, with `startServer`
 *   page    options of Playwright's newContext for `page`: colorScheme, viewport, …
 */
export function browserTest(name, options, body) {
  test(name, async (t) => {
    const ends = [];
    const later = (end) => ends.unshift(end);
    let server;
    const errors = [];
    try {
      const site = await startSite(later);
      const config = typeof options.config === 'function' ? options.config(site.origin) : options.config;
      server = options.server === false ? undefined : await startServer(later, { ...options, config });
      const newPage = (settings) => openPage(later, errors, settings);
      const page = await newPage(options.page);
      const given = {
        ...{ page, newPage, server, site },
        newSite: () => startSite(later),
        startServer: async (more = {}) => (server = await startServer(later, more)),
      };
      await inTime(body(given));
      assert.deepEqual(errors, [], 'uncaught errors of the pages');
    } catch (error) {
      t.diagnostic(`uncaught errors of the pages: ${errors.join('; ') || 'none'}`);
      t.diagnostic(`last lines of the server's log:\n${server?.log() || '(none)'}`);
      throw error;
    } finally {
      for (const end of ends) {
        await end();
      }
    }
  });
}

// node:test has a time limit too, but it would end the test without the diagnostics.
async function inTime(running) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done within ${TEST_MS_MAX / 1000} s`)), TEST_MS_MAX);
  });
  try {
    return await Promise.race([running, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function openPage(later, errors, settings = {}) {
  const context = await (await browser()).newContext(settings);
  later(() => context.close());
  context.setDefaultTimeout(WAIT_MS_MAX);
  const page = await context.newPage();
  page.on('pageerror', (error) => errors.push(String(error)));
  return page;
}

let launched;

function browser() {
  launched ??= chromium.launch({
    executablePath: variable('CHROMIUM'),
    // Chromium has no sandbox for root. The pages are this repository's own.
    chromiumSandbox: process.getuid() !== 0,
    timeout: WAIT_MS_MAX,
    args: [
      '--disable-gpu',
      '--disable-dev-shm-usage',
      '--mute-audio',
      '--autoplay-policy=no-user-gesture-required',
      // Only this machine can be reached.
      '--no-proxy-server',
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost',
    ],
  });
  return launched;
}

after(async () => {
  const open = await launched?.catch(() => undefined);
  await open?.close();
});

// Starts a server and waits until it listens.
async function startServer(later, { config = '', flags = [] }) {
  const directory = mkdtempSync(path.join(scratch, 'server-'));
  const store = path.join(directory, 'store');
  const file = path.join(directory, 'chatfiles.toml');
  writeFileSync(file, config);
  const defaults = [
    ['--listen', '127.0.0.1:0'],
    ['--operator-listen', '127.0.0.1:0'],
    ['--durability', 'none'],
    ['--free-space-min-bytes', '0'],
    ['--calls-per-second', '0'],
  ];
  const given = defaults.filter(([flag]) => !flags.includes(flag)).flat();
  const common = ['--config', file, '--store-path', store];
  const child = spawn(program, [...common, 'serve', ...given, ...flags], { stdio: ['ignore', 'pipe', 'pipe'] });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const ended = new Promise((resolve) => child.once('close', resolve));
  const lines = [];
  readline.createInterface({ input: child.stderr }).on('line', (line) => lines.push(line));
  const log = () => lines.slice(-40).join('\n');
  const stop = async () => {
    child.kill('SIGTERM');
    // A request of a page may still be open, and nobody waits for its response.
    const timer = setTimeout(kill, STOP_MS_MAX);
    await ended;
    clearTimeout(timer);
    process.removeListener('exit', kill);
  };
  later(stop);
  const [url, operator] = await addresses(child, ended, log);
  // A token for a user of the default tenant, or of `tenant` ("org/app").
  const tokens = new Map();
  const issue = async (user, tenant) => {
    const which = tenant ? ['--tenant', tenant] : [];
    const { stdout } = await run(program, [...common, 'token', '--user', user, ...which]);
    return stdout.trim();
  };
  const token = (user, tenant) => {
    const key = `${user} ${tenant}`;
    tokens.set(key, tokens.get(key) ?? issue(user, tenant));
    return tokens.get(key);
  };
  const server = { url, operator, store, directory, log, token, stop };
  return Object.assign(server, { upload: (...file) => upload(server, ...file) });
}

// The addresses of the public listener and of the operator listener, from the first lines of the standard output.
async function addresses(child, ended, log) {
  const found = [];
  const read = (async () => {
    for await (const line of readline.createInterface({ input: child.stdout })) {
      const address = / on (http:\/\/[0-9.]+:\d+)/.exec(line);
      if (address) {
        found.push(address[1]);
      }
      if (found.length === 2) {
        child.stdout.resume();
        return;
      }
    }
  })();
  await Promise.race([read, ended]);
  assert.equal(found.length, 2, `the server did not start:\n${log()}`);
  return found;
}

// Uploads a file to the default tenant without the browser. Returns the entity: uuid, share-secret, …
async function upload(server, name, type, bytes, headers = {}) {
  const form = new FormData();
  form.append('file', new Blob([bytes], { type }), name);
  const authorization = `Bearer ${await server.token('alice')}`;
  const url = `${server.url}${BASE}/chatfiles`;
  const response = await fetch(url, { method: 'POST', headers: { authorization, ...headers }, body: form });
  const text = await response.text();
  assert.equal(response.status, 200, text);
  return JSON.parse(text).entities[0];
}

// Serves what a test puts into `files`: path → [type, body], or a function (request, response).
async function startSite(later) {
  const files = new Map([['/', ['text/html; charset=utf-8', '<!doctype html><title>test</title><body></body>']]]);
  const requests = [];
  const web = http.createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    const found = files.get(new URL(request.url, 'http://site').pathname) ?? files.get('*');
    if (typeof found === 'function') {
      return found(request, response);
    }
    const [type, body] = found ?? ['text/plain', 'not found'];
    response.writeHead(found ? 200 : 404, { 'Content-Type': type, 'Cache-Control': 'no-store' });
    return response.end(body);
  });
  await new Promise((resolve) => web.listen(0, '127.0.0.1', resolve));
  later(() => {
    web.closeAllConnections();
    return new Promise((resolve) => web.close(resolve));
  });
  return { origin: `http://localhost:${web.address().port}`, files, requests };
}

const root = fileURLToPath(new URL('../..', import.meta.url));

/** A photo of 4:3 with 100 to 200 KB. */
export const photo = () => path.join(root, 'tests/data/photo.jpg');
export const photoBytes = () => readFileSync(photo());

const made = new Map();

// A file made by ffmpeg, once per run. Returns its path.
async function make(name, args) {
  if (!made.has(name)) {
    const file = path.join(scratch, name);
    made.set(name, run('ffmpeg', ['-nostdin', '-v', 'error', ...args, file]).then(() => file));
  }
  return made.get(name);
}

/** Five seconds of an AMR voice message. */
export const voice = () =>
  make('voice.amr', ['-f', 'lavfi', '-i', 'sine=f=440:d=5', '-ar', '8000', '-ac', '1', '-b:a', '12.2k']);

/** A video of one second and a few KB. */
export const clip = () =>
  make('clip.mp4', ['-f', 'lavfi', '-i', 'testsrc2=s=320x240:r=10:d=1', '-c:v', 'libx264', '-pix_fmt', 'yuv420p']);

/**
 * A video of 20 seconds and about 5 MB, H.264 and AAC as phones record it, with the index at the end: a player must
 * request ranges.
 */
export const video = () =>
  make('video.mp4', [
    ...['-f', 'lavfi', '-i', 'testsrc2=s=320x240:r=10:d=20,noise=alls=60:allf=t', '-f', 'lavfi', '-i', 'sine=d=20'],
    ...['-c:v', 'libx264', '-preset', 'ultrafast', '-b:v', '2M', '-g', '20', '-pix_fmt', 'yuv420p', '-c:a', 'aac'],
  ]);
