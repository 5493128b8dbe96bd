// The console of the operator listener: login, charts, lookup, take-down and try-out, with mouse and keyboard, in both
// colour schemes and on a phone.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { BASE, browserTest, photo, photoBytes } from './harness.mjs';

const run = promisify(execFile);
const GUARDED = '[operator]\nauthentication = "token"\n';
/** Upload bytes per second of the browser, so that the photo takes long enough for several progress events. */
const SLOW = 100 << 10;

const operatorToken = (server) => readFileSync(path.join(server.store, 'keys/operator-token'), 'utf8').trim();

// Opens the console, and collects what the browser reports about the content security policy.
async function open(page, server) {
  const violations = [];
  page.on('console', (message) => {
    if (/content.security.policy/i.test(message.text())) violations.push(message.text());
  });
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      console.error(`Content-Security-Policy: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  const response = await page.goto(`${server.operator}/`);
  assert.equal(response.status(), 200);
  return violations;
}

async function openWithoutLogin(page, server) {
  const violations = await open(page, server);
  await page.locator('#console').waitFor();
  return violations;
}

// The text beside the line of a chart.
const value = (page, chart, line) =>
  page.locator('.chart', { has: page.getByRole('heading', { name: chart, exact: true }) })
    .locator('.legend li', { hasText: line })
    .locator('.number');

async function waitForValue(locator, expected) {
  await locator.waitFor();
  await locator.page().waitForFunction(
    ([element, pattern]) => new RegExp(pattern).test(element.textContent),
    [await locator.elementHandle(), expected.source],
  );
}

browserTest('logs in and out', { config: GUARDED }, async ({ page, server }) => {
  const violations = await open(page, server);
  const token = page.getByLabel('Operator token');
  await token.waitFor();
  assert.ok(await token.evaluate((element) => element === document.activeElement), 'the field has the focus');
  assert.ok(await page.locator('#console').isHidden());
  await page.keyboard.type('not the token');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').waitFor();
  assert.match(await page.getByRole('alert').textContent(), /not the operator's token/);
  await page.keyboard.type(operatorToken(server));
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Traffic' }).waitFor();
  assert.equal(await page.evaluate(() => document.cookie), '', 'scripts do not see the cookie');
  assert.equal(await token.inputValue(), '');
  await page.reload();
  await page.getByRole('heading', { name: 'Traffic' }).waitFor();
  await page.getByRole('button', { name: 'Log out' }).click();
  await token.waitFor();
  await page.reload();
  await token.waitFor();
  assert.ok(await page.locator('#console').isHidden());
  assert.deepEqual(violations, []);
});

browserTest('a session that has ended leads to the login', { config: GUARDED }, async ({ page, server }) => {
  await open(page, server);
  await page.getByLabel('Operator token').fill(operatorToken(server));
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('heading', { name: 'Traffic' }).waitFor();
  await page.context().clearCookies();
  await page.getByLabel('Operator token').waitFor();
});

browserTest('charts show live traffic', {}, async ({ page, server }) => {
  const violations = await openWithoutLogin(page, server);
  const entity = await server.upload('photo.jpg', 'image/jpeg', photoBytes());
  const authorization = `Bearer ${await server.token('alice')}`;
  for (const headers of [{ authorization }, { authorization, thumbnail: 'true' }]) {
    const response = await fetch(`${server.url}${BASE}/chatfiles/${entity.uuid}`, { headers });
    assert.ok((await response.arrayBuffer()).byteLength > 0);
  }
  await value(page, 'Requests by route', 'easemob_upload').waitFor();
  await value(page, 'Requests by route', 'easemob_download').first().waitFor();
  await waitForValue(value(page, 'Time to the response', '99 %'), /[µm]?s$/);
  await waitForValue(value(page, 'Disk space', 'free'), /GiB|TiB/);
  const line = page.locator('.chart path.line').first();
  const before = await line.getAttribute('d');
  await page.waitForFunction((old) => document.querySelector('.chart path.line').getAttribute('d') !== old, before);
  assert.match(await page.locator('#state').textContent(), /^Live/);
  await page.getByText('Requests since the start of the server').click();
  const row = page.getByRole('row', { name: /easemob_upload/ });
  await row.waitFor();
  assert.match(await row.textContent(), /200: 1/);
  assert.deepEqual(violations, []);
});

browserTest('a hidden page asks for nothing', {}, async ({ page, server }) => {
  let requests = 0;
  page.on('request', (request) => { requests += request.url().endsWith('/levels'); });
  // Its timers run when the test says so.
  await page.clock.install();
  await openWithoutLogin(page, server);
  const advance = async () => {
    for (let second = 0; second < 5; second += 1) await page.clock.runFor(1000);
  };
  const hide = (isHidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, isHidden);
  const asksAgain = (act) => Promise.all([page.waitForRequest('**/levels'), act()]);
  await page.waitForFunction(() => document.querySelector('#state').textContent.startsWith('Live'));
  await asksAgain(advance);
  await hide(true);
  // A response that was under way may still arrive; it does not cause another request.
  await page.waitForLoadState('networkidle');
  let asked = requests;
  await advance();
  assert.equal(requests, asked);
  await asksAgain(() => hide(false));
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.waitForLoadState('networkidle');
  asked = requests;
  await advance();
  assert.equal(requests, asked);
  assert.equal(await page.locator('#state').textContent(), 'Paused');
  assert.equal(await page.locator('#pause').getAttribute('aria-pressed'), 'true');
  await asksAgain(() => page.getByRole('button', { name: 'Pause' }).click());
});

browserTest('uploads with progress, and shows commands that work', {}, async ({ page, server }) => {
  const violations = await openWithoutLogin(page, server);
  const devtools = await page.context().newCDPSession(page);
  const unlimited = { offline: false, latency: 0, downloadThroughput: -1 };
  await devtools.send('Network.emulateNetworkConditions', { ...unlimited, uploadThroughput: SLOW });
  await page.getByLabel('User').fill('张三');
  const name = "holiday's; photo.jpg";
  const file = path.join(server.directory, name);
  copyFileSync(photo(), file);
  await page.getByLabel('Picture or other file').setInputFiles(file);
  await page.getByAltText('The chosen picture').waitFor();
  await page.evaluate(() => {
    window.steps = [];
    const bar = document.querySelector('#progress');
    new MutationObserver(() => window.steps.push(bar.value)).observe(bar, { attributes: true });
  });
  await page.getByRole('button', { name: 'Upload', exact: true }).click();
  await page.getByText(`Uploaded ${name}`).waitFor();
  const steps = await page.evaluate(() => window.steps);
  assert.ok(steps.filter((step) => step > 0 && step < 100).length > 1, `progress in steps: ${steps}`);
  assert.ok(steps.every((step, at) => at === 0 || step >= steps[at - 1]));
  const thumbnail = page.getByAltText(`Thumbnail of ${name}`);
  await thumbnail.waitFor();
  assert.ok((await thumbnail.evaluate((image) => Math.max(image.naturalWidth, image.naturalHeight))) === 320);
  assert.match(await page.locator('#tried-facts').textContent(), /Owner张三/);
  assert.deepEqual(violations, []);

  const commands = await page.locator('#commands').textContent();
  const tools = path.join(server.directory, 'tools');
  mkdirSync(tools);
  const wrapper = path.join(tools, 'chatfiles');
  writeFileSync(wrapper, `#!/bin/sh\nexec '${path.resolve(process.env.CHATFILES)}' --store-path '${server.store}' "$@"\n`);
  chmodSync(wrapper, 0o755);
  const options = { cwd: server.directory, env: { PATH: `${tools}:${process.env.PATH}`, LC_ALL: 'C.UTF-8' } };
  // They work as they are shown: the page has the address of the public listener from the server.
  const { stdout } = await run('bash', ['-euo', 'pipefail', '-c', commands], options);
  assert.match(stdout, /"uuid"/);
  const at = (made) => path.join(server.directory, made);
  assert.deepEqual(readFileSync(at('copy')), photoBytes());
  assert.ok(existsSync(at('thumbnail')) && readFileSync(at('thumbnail')).length < photoBytes().length);
});

browserTest('takes a dropped file', {}, async ({ page, server }) => {
  const violations = await openWithoutLogin(page, server);
  const bytes = [...photoBytes()];
  const data = await page.evaluateHandle((content) => {
    const dropped = new DataTransfer();
    dropped.items.add(new File([new Uint8Array(content)], 'dropped.jpg', { type: 'image/jpeg' }));
    return dropped;
  }, bytes);
  for (const type of ['dragenter', 'dragover']) await page.dispatchEvent('#drop', type, { dataTransfer: data });
  assert.match(await page.locator('#drop').getAttribute('class'), /over/);
  await page.dispatchEvent('#drop', 'drop', { dataTransfer: data });
  await page.getByAltText('The chosen picture').waitFor();
  assert.doesNotMatch(await page.locator('#drop').getAttribute('class'), /over/);
  await page.getByRole('button', { name: 'Upload', exact: true }).click();
  await page.getByAltText('Thumbnail of dropped.jpg').waitFor();
  assert.deepEqual(violations, []);
});

browserTest('says why an upload fails', { config: '[limits]\nupload_bytes_max = 1000\n' }, async ({ page, server }) => {
  await openWithoutLogin(page, server);
  await page.getByLabel('Picture or other file').setInputFiles(photo());
  await page.getByRole('button', { name: 'Upload', exact: true }).click();
  const message = page.locator('#try-message.bad');
  await message.waitFor();
  assert.match(await message.textContent(), /large|size|exceed/i);
  assert.ok(await page.locator('#tried').isHidden());
});

browserTest('finds a restricted file by link', {}, async ({ page, server }) => {
  const violations = await openWithoutLogin(page, server);
  const headers = { 'restrict-access': 'true' };
  const entity = await server.upload('<b>bold.jpg', 'image/jpeg', photoBytes(), headers);
  const secret = entity['share-secret'];
  const reference = page.getByLabel('Id, key or link of the file');
  await reference.fill(`${server.url}${BASE}/chatfiles/${entity.uuid}?share-secret=${secret}`);
  await page.getByRole('button', { name: 'Find', exact: true }).click();
  await page.getByRole('heading', { name: '<b>bold.jpg' }).waitFor();
  await page.getByAltText('Thumbnail of <b>bold.jpg').waitFor();
  const shown = await page.locator('#found').innerHTML();
  assert.ok(shown.includes(entity.uuid) && shown.includes('restricted') && !shown.includes(secret));
  await reference.fill('no file');
  await page.getByRole('button', { name: 'Find', exact: true }).click();
  await page.getByText('The text has no id of a file').waitFor();
  assert.ok(await page.locator('#found').isHidden());
  assert.deepEqual(violations, []);
});

// Presses Tab until the element has the focus. `where` also stops at a page that has lost the focus.
async function tabTo(page, locator) {
  for (let presses = 0; presses < 60; presses += 1) {
    if (await locator.evaluate((element) => element === document.activeElement)) {
      const outline = await locator.evaluate((element) => getComputedStyle(element).outlineStyle);
      assert.notEqual(outline, 'none', 'the focus is visible');
      return;
    }
    await page.keyboard.press('Tab');
  }
  assert.fail('the keyboard does not reach it');
}

browserTest('takes a file down with the keyboard alone', {}, async ({ page, server }) => {
  const violations = await openWithoutLogin(page, server);
  const { uuid } = await server.upload('photo.jpg', 'image/jpeg', photoBytes());
  await tabTo(page, page.getByLabel('Id, key or link of the file'));
  await page.keyboard.type(uuid);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'photo.jpg' }).waitFor();
  const takeDown = page.getByRole('button', { name: 'Take down…' });
  await tabTo(page, takeDown);
  await page.keyboard.press('Enter');
  const dialog = page.getByRole('dialog', { name: 'Take this file down?' });
  await dialog.waitFor();
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'hidden' });
  assert.ok(await takeDown.evaluate((element) => element === document.activeElement), 'the focus is back');
  await page.keyboard.press('Enter');
  await dialog.waitFor();
  await page.keyboard.type('wrong');
  await page.keyboard.press('Enter');
  await dialog.getByRole('alert').waitFor();
  const status = async () => {
    const authorization = `Bearer ${await server.token('alice')}`;
    return (await fetch(`${server.url}${BASE}/chatfiles/${uuid}`, { headers: { authorization } })).status;
  };
  assert.equal(await status(), 200, 'it is still there');
  await page.keyboard.type(uuid.slice(-6));
  await page.keyboard.press('Enter');
  await page.getByText(`The file ${uuid} is taken down.`).waitFor();
  assert.equal(await status(), 404);
  assert.ok(await page.locator('#found').isHidden());
  // The rest of the page is reached, too, and the skip link leads past the head.
  await tabTo(page, page.getByLabel('Tenant'));
  await tabTo(page, page.getByLabel('User'));
  await tabTo(page, page.getByLabel('Picture or other file'));
  await tabTo(page, page.getByRole('button', { name: 'Upload', exact: true }));
  assert.match(server.log(), /action="take-down"/);
  assert.deepEqual(violations, []);
});

// Shows everything that the page has, so that it can be checked.
async function showEverything(page, server) {
  const name = `${'a-long-name-without-a-space'.repeat(4)}.jpg`;
  const file = path.join(server.directory, name);
  copyFileSync(photo(), file);
  await page.getByLabel('Picture or other file').setInputFiles(file);
  await page.getByRole('button', { name: 'Upload', exact: true }).click();
  await page.getByRole('button', { name: 'Show all of it above' }).click();
  await page.locator('#found-picture').waitFor();
  await page.locator('#tried-picture').waitFor();
  await page.getByText('Requests since the start of the server').click();
  await page.getByRole('row', { name: /easemob_upload/ }).waitFor();
  await value(page, 'Requests by route', 'easemob_upload').waitFor();
}

browserTest('every control has a name', { config: GUARDED }, async ({ page, server }) => {
  await open(page, server);
  await page.getByLabel('Operator token').waitFor();
  const devtools = await page.context().newCDPSession(page);
  const check = async () => {
    const { nodes } = await devtools.send('Accessibility.getFullAXTree');
    const shown = nodes.filter((node) => !node.ignored);
    const of = (...roles) => shown.filter((node) => roles.includes(node.role?.value));
    const controls = of('button', 'link', 'textbox', 'combobox', 'progressbar', 'image', 'img', 'dialog', 'table', 'navigation', 'heading', 'DisclosureTriangle');
    const nameless = controls.filter((node) => !node.name?.value?.trim());
    assert.deepEqual(nameless.map((node) => node.role.value), []);
    assert.equal(of('main').length + of('dialog').length > 0, true);
    return { controls, of };
  };
  await check();
  await page.getByLabel('Operator token').fill(operatorToken(server));
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('heading', { name: 'Traffic' }).waitFor();
  await showEverything(page, server);
  const { controls, of } = await check();
  assert.ok(controls.length > 20, `${controls.length} controls`);
  for (const role of ['main', 'banner', 'navigation']) assert.equal(of(role).length, 1, role);
  assert.ok(of('status').length >= 1, 'changes are announced');
  assert.equal(of('table').length, 1);
  const levels = await page.locator('h1:visible, h2:visible, h3:visible').evaluateAll((all) => all.map((h) => Number(h.tagName[1])));
  assert.equal(levels[0], 1);
  assert.ok(levels.every((level, at) => at === 0 || level <= levels[at - 1] + 1), `headings: ${levels}`);
  assert.equal(await page.locator('html').getAttribute('lang'), 'en');
  const ids = await page.locator('[id]').evaluateAll((all) => all.map((element) => element.id));
  assert.equal(new Set(ids).size, ids.length, 'each id is there once');
  await page.getByRole('button', { name: 'Take down…' }).click();
  await check();
});

for (const width of [360, 1280]) {
  browserTest(`fits ${width} pixels`, { page: { viewport: { width, height: 740 } } }, async ({ page, server }) => {
    await openWithoutLogin(page, server);
    await showEverything(page, server);
    const check = async () => {
      const tooWide = await page.evaluate(() => {
        const limit = document.documentElement.clientWidth;
        const isScrolled = (element) => element.parentElement?.closest('.scroll');
        const wide = [...document.body.querySelectorAll('*')].filter((element) => {
          const box = element.getBoundingClientRect();
          return box.width > 0 && (box.right > limit + 0.5 || box.left < -0.5) && !isScrolled(element);
        });
        const names = wide.map((element) => `${element.tagName}#${element.id}.${element.className}`);
        return document.documentElement.scrollWidth > limit ? ['the page', ...names] : names;
      });
      assert.deepEqual(tooWide, []);
    };
    await check();
    await page.getByRole('button', { name: 'Take down…' }).click();
    await page.getByRole('dialog').waitFor();
    await check();
  });
}

// The lowest contrasts of visible texts against their backgrounds (WCAG 2.2 §1.4.3), and of the charts' lines (§1.4.11).
function contrasts() {
  const parse = (text) => {
    const numbers = text.match(/[\d.]+/g).map(Number);
    return { rgb: numbers.slice(0, 3), alpha: numbers[3] ?? 1 };
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { rgb, alpha } = parse(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const low = [];
  let checked = 0;
  for (const element of document.body.querySelectorAll('*')) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const isDrawn = element.checkVisibility() && element.getBoundingClientRect().width > 1;
    const isLine = element.matches('path.line, .legend line');
    if (!isDrawn || element.matches(':disabled') || !(hasText || isLine || element.matches('input, select'))) continue;
    const style = getComputedStyle(element);
    const found = ratio(parse(isLine ? style.stroke : style.color).rgb, background(element));
    checked += 1;
    if (found < (isLine ? 3 : 4.5)) low.push(`${element.tagName}#${element.id} "${element.textContent.trim().slice(0, 30)}" ${found.toFixed(2)}`);
  }
  return { low, checked, page: parse(getComputedStyle(document.body).backgroundColor).rgb };
}

for (const colorScheme of ['light', 'dark']) {
  browserTest(`has enough contrast in ${colorScheme} mode`, { page: { colorScheme } }, async ({ page, server }) => {
    const violations = await openWithoutLogin(page, server);
    await showEverything(page, server);
    await page.getByLabel('Id, key or link of the file').fill('no file');
    await page.getByRole('button', { name: 'Find', exact: true }).click();
    await page.locator('#file-message.bad').waitFor();
    const found = await page.evaluate(contrasts);
    assert.deepEqual(found.low, []);
    assert.ok(found.checked > 60, `${found.checked} texts`);
    assert.equal(found.page[0] < 128, colorScheme === 'dark');
    assert.deepEqual(violations, []);
  });
}
