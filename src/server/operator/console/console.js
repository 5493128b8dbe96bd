'use strict';
// The console of chatfiles. Draws the numbers of /console/api/levels, finds files, takes them down, and tries uploads.
// Has no dependencies, and sends requests to its own origin only.

const API = 'console/api/';
const HEADERS = { 'X-Chatfiles-Console': '1' };
/** Samples that are kept: five minutes. */
const SAMPLES_MAX = 300;
/** Samples that fill the width of a chart. With more, the scale changes. */
const SPAN_MIN = 60;
/** Milliseconds between two samples. Fewer for people who want less motion. */
const INTERVAL_MS = matchMedia('(prefers-reduced-motion: reduce)').matches ? 5000 : 1000;
/** The longest pause after errors. */
const RETRY_MS_MAX = 10000;
/** Milliseconds over which quantiles and shares are computed: a second may have too few requests. */
const WINDOW_MS = 10000;
/** Lines of one chart. */
const LINES_MAX = 6;
/** Characters of an id that confirm a take-down. */
const CONFIRM_CHARACTERS = 6;

const element = (id) => document.getElementById(id);

/** Creates an element with text and classes. */
function make(name, text = '', className = '') {
  const made = document.createElement(name);
  if (text !== '') made.textContent = text;
  if (className) made.className = className;
  return made;
}

function makeSvg(name, attributes) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Shows a message in an element with a live role, or hides it. */
function say(target, text, kind = '') {
  target.textContent = text;
  target.className = `message ${kind}`;
  target.hidden = text === '';
}

// ---- Numbers as texts ----

function bytesText(bytes) {
  if (bytes === null) return 'unknown';
  let value = bytes;
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (value < 1024) return `${value >= 100 || unit === 'B' ? Math.round(value) : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}

function countText(count) {
  return count >= 100 || Number.isInteger(count) ? Math.round(count).toLocaleString('en') : count.toFixed(1);
}

const rateText = (rate) => `${countText(rate)}/s`;
const byteRateText = (rate) => `${bytesText(rate)}/s`;
const percentText = (share) => `${Math.round(share)} %`;

function secondsText(seconds) {
  if (seconds === Infinity) return 'over 30 s';
  const [value, unit] = seconds >= 1 ? [seconds, 's'] : seconds >= 0.001 ? [seconds * 1e3, 'ms'] : [seconds * 1e6, 'µs'];
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} ${unit}`;
}

const timeText = (ms) => new Date(ms).toISOString().replace('T', ' ').replace(/\.\d+Z$/, ' UTC');

// ---- Calls ----

class CallError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The message of an error response. */
async function failure(response) {
  const retry = response.headers.get('retry-after');
  const body = await response.json().catch(() => ({}));
  const wait = retry ? ` Try again in ${retry} s.` : '';
  return new CallError(response.status, sentence(body.error || `Status ${response.status}`) + wait);
}

function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

/** Calls the console's API. A session that has ended leads back to the login. */
async function call(method, path, body) {
  const options = { method, headers: { ...HEADERS }, credentials: 'same-origin', cache: 'no-store' };
  if (body !== undefined) {
    options.headers['Content-Type'] = 'application/json';
    options.body = JSON.stringify(body);
  }
  const response = await fetch(API + path, options);
  if (!response.ok) {
    const error = await failure(response);
    if (error.status === 401 && path !== 'session') showLogin();
    throw error;
  }
  return response.status === 204 ? null : response.json();
}

// ---- Login ----

let info = null;

function showLogin() {
  stopPolling();
  for (const id of ['console', 'nav', 'log-out']) element(id).hidden = true;
  if (element('confirm').open) element('confirm').close();
  element('login').hidden = false;
  element('token').focus();
}

async function start() {
  try {
    info = await call('GET', 'info');
  } catch (error) {
    if (error.status !== 401) {
      showLogin();
      say(element('login-error'), error.message, 'bad');
    }
    return;
  }
  element('login').hidden = true;
  element('version').textContent = info.version;
  element('log-out').hidden = info.authentication !== 'token';
  const chosen = element('tenant').value;
  element('tenant').replaceChildren(...info.tenants.map((tenant) => new Option(tenant.name, tenant.name)));
  if (chosen) element('tenant').value = chosen;
  element('nav').hidden = false;
  element('console').hidden = false;
  resume();
}

element('login-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  say(element('login-error'), '');
  try {
    await call('POST', 'session', { token: element('token').value });
  } catch (error) {
    say(element('login-error'), error.message, 'bad');
    element('token').select();
    return;
  }
  element('token').value = '';
  await start();
  element('content').focus();
});

element('log-out').addEventListener('click', async () => {
  await call('DELETE', 'session').catch(() => {});
  samples.length = 0;
  element('found').hidden = true;
  element('tried').hidden = true;
  showLogin();
});

// ---- Charts ----

/** `{ at, levels }`, the oldest first. */
const samples = [];
let timer = 0;
let isPaused = false;
let isPolling = false;
let failures = 0;

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** The counters of each route, by name. */
const routesOf = (levels) => new Map(levels.routes.map((route) => [route.route, route]));

/** How much a counter of the routes has grown per second, by route. */
function ratesByRoute(before, now, count) {
  const old = routesOf(before.levels);
  const seconds = (now.at - before.at) / 1000;
  return now.levels.routes.map((route) => {
    const earlier = old.get(route.route);
    return [route.route, Math.max(0, count(route) - (earlier ? count(earlier) : 0)) / seconds];
  });
}

const totalRate = (before, now, count) => sum(ratesByRoute(before, now, count).map(([, rate]) => rate));
const requests = (route) => sum(Object.values(route.statuses));

/** How much a number in the levels has grown per second. */
function rate(before, now, count) {
  return Math.max(0, count(now.levels) - count(before.levels)) / ((now.at - before.at) / 1000);
}

function byStatus(before, now) {
  const classes = [['2xx success', '2'], ['3xx redirect, not modified', '3'], ['4xx client error', '4'], ['5xx server error', '5']];
  return classes.map(([name, digit]) => {
    const count = (route) => sum(Object.entries(route.statuses).map(([status, n]) => (status[0] === digit ? n : 0)));
    return [name, totalRate(before, now, count)];
  });
}

/** A quantile, estimated as by Prometheus: the values of a bucket are taken to be evenly spread. */
function quantile(buckets, bounds, q) {
  const rank = q * sum(buckets);
  let seen = 0;
  for (let at = 0; at < buckets.length; at += 1) {
    if (buckets[at] > 0 && seen + buckets[at] >= rank) {
      if (at === bounds.length) return Infinity;
      const low = at > 0 ? bounds[at - 1] : 0;
      return low + ((bounds[at] - low) * (rank - seen)) / buckets[at];
    }
    seen += buckets[at];
  }
  return null;
}

function durations(before, now) {
  const old = routesOf(before.levels);
  const buckets = now.levels.bucket_bounds_seconds.map(() => 0).concat(0);
  for (const route of now.levels.routes) {
    const earlier = old.get(route.route);
    route.buckets.forEach((count, at) => { buckets[at] += count - (earlier ? earlier.buckets[at] : 0); });
  }
  const of = (q) => quantile(buckets, now.levels.bucket_bounds_seconds, q);
  return [['median', of(0.5)], ['90 %', of(0.9)], ['99 %', of(0.99)]];
}

/** The share of hits in percent; null without lookups. */
function share(hits, lookups) {
  return lookups > 0 ? (100 * hits) / lookups : null;
}

function cacheHits(before, now) {
  const grown = (count) => count(now.levels) - count(before.levels);
  const opened = grown((levels) => levels.open_objects.hit);
  const missed = grown((levels) => levels.open_objects.miss);
  const kept = grown((levels) => levels.derivatives.memory + levels.derivatives.disk);
  const made = grown((levels) => levels.derivatives.made);
  return [['open files', share(opened, opened + missed)], ['thumbnails and other derivatives', share(kept, kept + made)]];
}

/** A chart: its title, how a value is written, and its lines: names and values, from two samples or a window. */
const CHARTS = [
  { title: 'Requests by route', text: rateText, lines: (before, now) => ratesByRoute(before, now, requests) },
  { title: 'Requests by status', text: rateText, lines: byStatus },
  { title: 'Time to the response', text: secondsText, isWindow: true, lines: durations },
  {
    title: 'Bytes', text: byteRateText, lines: (before, now) => [
      ['sent', totalRate(before, now, (route) => route.sent_bytes)],
      ['received', totalRate(before, now, (route) => route.received_bytes)],
    ],
  },
  { title: 'Cache hits', text: percentText, max: 100, isWindow: true, lines: cacheHits },
  {
    title: 'Refusals', text: rateText, lines: (before, now) => [
      ['rate limit', totalRate(before, now, (route) => route.rate_refusals)],
      ['daily quota', totalRate(before, now, (route) => route.quota_refusals)],
      ['uploads in flight', rate(before, now, (levels) => levels.uploads.refusals)],
      ['decoders', rate(before, now, (levels) => levels.decoders.picture.refusals + levels.decoders.ffmpeg.refusals)],
    ],
  },
  { title: 'Uploads in flight', text: countText, lines: (_, now) => [['uploads', now.levels.uploads.in_flight]] },
  {
    title: 'Decoders', text: countText, lines: (_, now) => [
      ['pictures waiting', now.levels.decoders.picture.waiting],
      ['pictures running', now.levels.decoders.picture.busy],
      ['ffmpeg waiting', now.levels.decoders.ffmpeg.waiting],
      ['ffmpeg running', now.levels.decoders.ffmpeg.busy],
    ],
  },
  {
    title: 'Disk space', text: bytesText, lines: (_, now) => [
      ['free', now.levels.disk.free_bytes],
      ['floor: no uploads below', now.levels.disk.free_min_bytes],
    ],
  },
];

for (const chart of CHARTS) {
  const figure = make('figure', '', 'chart');
  const caption = make('figcaption');
  chart.span = make('span', '', 'quiet');
  caption.append(make('h3', chart.title), chart.span);
  chart.svg = makeSvg('svg', { viewBox: '0 0 300 100', preserveAspectRatio: 'none', class: 'plot', 'aria-hidden': 'true' });
  chart.legend = make('ul', '', 'legend');
  figure.append(caption, chart.svg, chart.legend);
  element('charts').append(figure);
}

/** The lines of a chart at each sample: a map from name to value. */
function history(chart) {
  const first = samples[0].at;
  let opening = 0;
  return samples.slice(1).map((now, index) => {
    let before = samples[index];
    if (chart.isWindow) {
      while (samples[opening + 1].at <= now.at - WINDOW_MS && now.at - WINDOW_MS > first) opening += 1;
      before = samples[opening];
    }
    // A server that was restarted counts from zero.
    return before.at === now.at ? new Map() : new Map(chart.lines(before, now));
  });
}

/** The names of the lines that are drawn: those with the largest sum. The others become one line. */
function chosenNames(points) {
  const sums = new Map();
  for (const point of points) {
    for (const [name, value] of point) sums.set(name, (sums.get(name) || 0) + (Number.isFinite(value) ? value : 0));
  }
  const names = [...sums.keys()];
  if (names.length <= LINES_MAX) return { names, rest: [] };
  const ranked = [...names].sort((a, b) => sums.get(b) - sums.get(a));
  const kept = new Set(ranked.slice(0, LINES_MAX - 1));
  return { names: names.filter((name) => kept.has(name)), rest: names.filter((name) => !kept.has(name)) };
}

function draw(chart) {
  const points = history(chart);
  const { names, rest } = chosenNames(points);
  const lines = names.map((name) => [name, points.map((point) => point.get(name) ?? null)]);
  if (rest.length) lines.push(['other routes', points.map((point) => sum(rest.map((name) => point.get(name) || 0)))]);
  const finite = lines.flatMap(([, values]) => values).filter((value) => Number.isFinite(value));
  const max = chart.max || Math.max(...finite, 0);
  const seconds = (Math.max(SPAN_MIN, points.length) * INTERVAL_MS) / 1000;
  const span = seconds >= 120 ? `${Math.ceil(seconds / 60)} min` : `${Math.ceil(seconds / 10) * 10} s`;
  const scale = max > 0 ? `${span}, 0 to ${chart.text(max)}` : span;
  if (chart.span.textContent !== scale) chart.span.textContent = scale;
  const grid = [2, 50, 98].map((y) => makeSvg('line', { x1: 0, x2: 300, y1: y, y2: y, class: 'grid' }));
  chart.svg.replaceChildren(...grid, ...lines.map(([, values], index) => path(values, max, index)));
  legend(chart, lines);
}

/** The path of a line. A missing value is a gap; a value without bound is drawn at the top. */
function path(values, max, index) {
  let data = '';
  let isDown = false;
  values.forEach((value, at) => {
    if (value === null) { isDown = false; return; }
    const x = 300 - (300 * (values.length - 1 - at)) / (Math.max(SPAN_MIN, values.length) - 1);
    const y = max > 0 ? 98 - 96 * Math.min(1, value / max) : 98;
    data += `${isDown ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
    isDown = true;
  });
  return makeSvg('path', { d: data, class: `line line-${index + 1}` });
}

/** Writes the newest values beside the lines. Text nodes are changed only if they differ. */
function legend(chart, lines) {
  const names = lines.map(([name]) => name).join('\n');
  if (chart.names !== names) {
    chart.names = names;
    chart.legend.replaceChildren(...lines.map(([name], index) => {
      const item = make('li');
      const sample = makeSvg('svg', { viewBox: '0 0 26 8', 'aria-hidden': 'true' });
      sample.append(makeSvg('line', { x1: 0, x2: 26, y1: 4, y2: 4, class: `line line-${index + 1}` }));
      item.append(sample, make('span', name, 'name'), make('span', '', 'number'));
      return item;
    }));
  }
  lines.forEach(([, values], index) => {
    const value = values.at(-1) ?? null;
    const text = value === null ? 'no data' : chart.text(value);
    const number = chart.legend.children[index].lastChild;
    if (number.textContent !== text) number.textContent = text;
  });
}

function fact(name, text, isBad = false) {
  const box = make('div', '', isBad ? 'bad' : '');
  box.append(make('dt', name), make('dd', text));
  return box;
}

function drawFacts({ levels }) {
  const { disk, uploads } = levels;
  const writes = disk.is_writable ? 'accepts uploads' : disk.is_readable ? 'not writable: uploads fail' : 'not readable';
  element('facts').replaceChildren(
    fact('Store', writes, !disk.is_writable),
    fact('Connections', countText(levels.connections_open)),
    fact('Announced uploads', `${bytesText(uploads.in_flight_bytes)} of ${bytesText(uploads.in_flight_bytes_max)}`),
    fact('Disk', disk.free_bytes === null ? 'does not answer' : `${bytesText(disk.free_bytes)} free`, disk.free_bytes === null || disk.free_bytes < disk.free_min_bytes),
  );
}

function drawRoutes({ levels }) {
  const bounds = levels.bucket_bounds_seconds;
  const time = (route, q) => { const value = quantile(route.buckets, bounds, q); return value === null ? '' : secondsText(value); };
  element('routes').replaceChildren(...levels.routes.map((route) => {
    const row = make('tr');
    const name = make('th', route.route);
    name.scope = 'row';
    const statuses = Object.entries(route.statuses).map(([status, count]) => `${status}: ${countText(count)}`).join(', ');
    const cells = [countText(requests(route)), statuses, time(route, 0.5), time(route, 0.99), bytesText(route.received_bytes), bytesText(route.sent_bytes)];
    row.append(name, ...cells.map((text) => make('td', text)));
    return row;
  }));
}

/** Says how the charts are, once for each change, so that a screen reader is not interrupted every second. */
function state(text, isBad = false) {
  const target = element('state');
  if (target.textContent !== text) target.textContent = text;
  target.classList.toggle('bad', isBad);
}

async function poll() {
  if (isPolling) return;
  isPolling = true;
  try {
    const levels = await call('GET', 'levels');
    const sample = { at: performance.now(), levels };
    const last = samples.at(-1);
    // A server that was restarted counts from zero.
    if (last && sum(levels.routes.map(requests)) < sum(last.levels.routes.map(requests))) samples.length = 0;
    samples.push(sample);
    if (samples.length > SAMPLES_MAX + 1) samples.shift();
    failures = 0;
    CHARTS.forEach(draw);
    drawFacts(sample);
    if (element('routes-box').open) drawRoutes(sample);
    state(`Live, every ${INTERVAL_MS === 1000 ? 'second' : `${INTERVAL_MS / 1000} seconds`}`);
  } catch (error) {
    if (error.status === 401) return;
    failures += 1;
    state(error.status ? error.message : 'The server does not answer. Trying again.', true);
  } finally {
    isPolling = false;
  }
  schedule();
}

const mayPoll = () => !isPaused && !document.hidden && !element('console').hidden;

function schedule() {
  clearTimeout(timer);
  if (mayPoll()) timer = setTimeout(poll, Math.min(RETRY_MS_MAX, INTERVAL_MS * 2 ** failures));
}

function stopPolling() {
  clearTimeout(timer);
}

function resume() {
  clearTimeout(timer);
  if (mayPoll()) poll();
}

element('pause').addEventListener('click', () => {
  isPaused = !isPaused;
  element('pause').setAttribute('aria-pressed', String(isPaused));
  if (isPaused) {
    stopPolling();
    state('Paused');
  } else {
    resume();
  }
});
document.addEventListener('visibilitychange', () => (document.hidden ? stopPolling() : resume()));
element('routes-box').addEventListener('toggle', () => {
  if (samples.length) drawRoutes(samples.at(-1));
});

// ---- Files ----

/** Shows a thumbnail, or says that there is none. */
function showPicture(prefix, file) {
  const picture = element(`${prefix}-picture`);
  const none = element(`${prefix}-no-picture`);
  picture.hidden = true;
  picture.removeAttribute('src');
  none.textContent = file.thumbnail ? 'Loading the thumbnail…' : 'This kind of file has no thumbnail.';
  if (!file.thumbnail) return;
  picture.alt = `Thumbnail of ${file.file_name || file.id}`;
  picture.onload = () => { picture.hidden = false; none.textContent = ''; };
  picture.onerror = () => { none.textContent = 'The server could not make a thumbnail.'; };
  picture.src = file.thumbnail.replace(/^\//, '');
}

/** Writes the metadata of a file; only the named facts, if there are names. */
function showFacts(list, file, names) {
  const apis = { easemob: 'Easemob', lanying: 'Lanying' };
  const expires = file.expires_ms === null
    ? (file.is_tenant_configured ? 'never' : 'unknown: the tenant is not configured')
    : `${timeText(file.expires_ms)}${file.is_expired ? ' (has expired)' : ''}`;
  const recognised = file.recognised_type === file.content_type ? '' : `, recognised as ${file.recognised_type || 'nothing known'}`;
  const facts = [
    ['Id', file.id],
    ['Key', file.key],
    ['Type', file.content_type + recognised],
    ['Size', `${bytesText(file.size_bytes)} (${file.size_bytes.toLocaleString('en')} bytes)`],
    ['Tenant', file.tenant],
    ['Owner', file.owner || 'the application itself'],
    ...(file.recipient ? [['Recipient', file.recipient]] : []),
    ['API', apis[file.api]],
    ['Class', file.class],
    ['Created', timeText(file.created_ms)],
    ['Expires', expires],
    ['Access', file.is_restricted ? 'restricted: needs its share-secret' : 'not restricted'],
    ['CRC-32', file.crc32],
  ];
  const shown = facts.filter(([name]) => !names || names.includes(name));
  list.replaceChildren(...shown.flatMap(([name, text]) => [make('dt', name), make('dd', text)]));
}

let found = null;

function showFound(file) {
  found = file;
  element('found-title').textContent = file.file_name || 'File without a name';
  showPicture('found', file);
  showFacts(element('found-facts'), file);
  element('found').hidden = false;
}

element('file-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  say(element('file-message'), '');
  try {
    showFound(await call('POST', 'file', { file: element('reference').value }));
    element('found-title').focus();
  } catch (error) {
    element('found').hidden = true;
    say(element('file-message'), error.message, 'bad');
  }
});

element('take-down').addEventListener('click', () => {
  element('confirm-text').textContent = `${found.file_name || 'The file'} (${bytesText(found.size_bytes)}, of ${found.owner || 'the application'} in ${found.tenant}) and its thumbnails are removed now, under all links. This cannot be undone.`;
  element('expected').textContent = found.id.slice(-CONFIRM_CHARACTERS);
  element('typed').value = '';
  say(element('confirm-error'), '');
  element('confirm').showModal();
  element('typed').focus();
});
element('confirm-cancel').addEventListener('click', () => element('confirm').close());
element('confirm').addEventListener('close', () => element(element('found').hidden ? 'reference' : 'take-down').focus());

element('confirm-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const { id } = found;
  if (element('typed').value.trim().toLowerCase() !== id.slice(-CONFIRM_CHARACTERS)) {
    say(element('confirm-error'), 'This is not the end of the id.', 'bad');
    element('typed').select();
    return;
  }
  element('confirm-yes').disabled = true;
  try {
    await call('POST', 'take-down', { id, confirm: id });
    element('found').hidden = true;
    element('reference').value = '';
    element('confirm').close();
    say(element('file-message'), `The file ${id} is taken down.`, 'good');
  } catch (error) {
    say(element('confirm-error'), error.message, 'bad');
  } finally {
    element('confirm-yes').disabled = false;
  }
});

// ---- Try-out ----

let previewUrl = '';
let uploading = null;
let tried = null;

function chosenFile() {
  return element('picture').files[0];
}

function preview() {
  if (previewUrl) URL.revokeObjectURL(previewUrl);
  previewUrl = '';
  const file = chosenFile();
  const picture = element('preview');
  picture.hidden = true;
  if (!file || !file.type.startsWith('image/')) return;
  previewUrl = URL.createObjectURL(file);
  picture.onload = () => { picture.hidden = false; };
  picture.src = previewUrl;
}

element('picture').addEventListener('change', preview);
for (const name of ['dragenter', 'dragover']) {
  element('drop').addEventListener(name, (event) => {
    event.preventDefault();
    element('drop').classList.add('over');
  });
}
for (const name of ['dragleave', 'drop']) {
  element('drop').addEventListener(name, () => element('drop').classList.remove('over'));
}
element('drop').addEventListener('drop', (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length === 0) return;
  const one = new DataTransfer();
  one.items.add(event.dataTransfer.files[0]);
  element('picture').files = one.files;
  preview();
});

/** Quotes a text for a POSIX shell. */
const quoted = (text) => (/^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The scheme and host of the public listener, as far as this page knows them. */
function publicUrl() {
  if (info.public_url) return info.public_url;
  const listener = info.public_listener;
  return listener ? `${listener.scheme}://${listener.host || location.hostname}:${listener.port}` : 'http://HOST';
}

/** The commands that do what this page did. Secrets are in shell variables only. */
function commands(tenant, user, name, isRestricted) {
  const url = `${publicUrl()}/${tenant}/chatfiles`;
  const part = /[",;\\]/.test(name) ? `file=@"${name.replace(/["\\]/g, '\\$&')}"` : `file=@${name}`;
  const authorization = '-H "Authorization: Bearer $TOKEN"';
  const secret = isRestricted ? ' -H "share-secret: $SECRET"' : '';
  const field = (variable, key) => `${variable}=$(echo "$ANSWER" | sed -E 's/.*"${key}":"([^"]*)".*/\\1/')`;
  return [
    '# A token of the user. Add --config FILE or --store-path DIR as for the server.',
    `TOKEN=$(chatfiles token --tenant ${quoted(tenant)} --user ${quoted(user)})`,
    '# Upload the file.',
    `ANSWER=$(curl -sS ${authorization} -F ${quoted(part)} ${quoted(url)}); echo "$ANSWER"`,
    field('UUID', 'uuid'),
    ...(isRestricted ? [field('SECRET', 'share-secret')] : []),
    '# Download the thumbnail, then the file.',
    `curl -sSL ${authorization}${secret} -H "thumbnail: true" -o thumbnail ${quoted(url)}/"$UUID"`,
    `curl -sSL ${authorization}${secret} -H "Accept: application/octet-stream" -o copy ${quoted(url)}/"$UUID"`,
  ].join('\n');
}

/** Uploads a form, and reports the progress. Not with `fetch`, which reports none for uploads. */
function upload(path, form, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    uploading = request;
    request.open('POST', API + path);
    for (const [name, value] of Object.entries(HEADERS)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => { if (event.lengthComputable) progress(event.loaded, event.total); };
    request.onload = () => resolve({ status: request.status, text: request.responseText });
    request.onerror = () => reject(new Error('The connection broke off.'));
    request.onabort = () => reject(new Error('Cancelled.'));
    request.onloadend = () => { uploading = null; };
    request.send(form);
  });
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return {}; }
}

element('cancel-upload').addEventListener('click', () => uploading && uploading.abort());

element('try-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  if (uploading) return;
  const [tenant, user, file] = [element('tenant').value, element('user').value, chosenFile()];
  const form = new FormData();
  form.append('file', file, file.name);
  element('tried').hidden = true;
  element('upload').disabled = true;
  element('cancel-upload').hidden = false;
  element('progress-box').hidden = false;
  const progress = (sent, total) => {
    element('progress').value = total ? (100 * sent) / total : 100;
    element('progress-text').textContent = `${bytesText(sent)} of ${bytesText(total)}`;
  };
  progress(0, file.size);
  say(element('try-message'), `Uploading ${file.name}.`);
  try {
    const query = new URLSearchParams({ tenant, user }).toString().replaceAll('+', '%20');
    const { status, text } = await upload(`upload?${query}`, form, progress);
    const answer = parsed(text);
    if (status === 401 && !answer.error_description) showLogin();
    const entity = status === 200 && answer.entities && answer.entities[0];
    if (!entity) throw new Error(sentence(answer.error_description || answer.error || `The server answered with status ${status}`));
    tried = await call('POST', 'file', { file: entity.uuid });
    showTried(answer, tenant, user, file.name);
    say(element('try-message'), `Uploaded ${file.name}: ${bytesText(file.size)}.`, 'good');
  } catch (error) {
    say(element('try-message'), error.message, 'bad');
  } finally {
    element('upload').disabled = false;
    element('cancel-upload').hidden = true;
    element('progress-box').hidden = true;
  }
});

function showTried(answer, tenant, user, name) {
  showPicture('tried', tried);
  showFacts(element('tried-facts'), tried, ['Id', 'Type', 'Size', 'Tenant', 'Owner', 'Expires', 'Access']);
  const shown = (key, value) => (key === 'share-secret' ? '(not shown)' : value);
  element('answer').textContent = JSON.stringify(answer, shown, 2);
  element('commands').textContent = commands(tenant, user, name, tried.is_restricted);
  element('tried').hidden = false;
}

element('show-tried').addEventListener('click', () => {
  say(element('file-message'), '');
  element('reference').value = tried.id;
  showFound(tried);
  element('found-title').focus();
});

element('copy').addEventListener('click', async () => {
  const text = element('commands').textContent;
  try {
    await navigator.clipboard.writeText(text);
    say(element('try-message'), 'The commands are copied.', 'good');
  } catch {
    // Browsers allow the clipboard over TLS and on localhost only.
    getSelection().selectAllChildren(element('commands'));
    say(element('try-message'), 'The browser does not allow copying here. The commands are selected: press Ctrl+C.');
  }
});

start();
