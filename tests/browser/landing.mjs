// The landing page: light, dark, narrow, by keyboard, with its strict Content-Security-Policy.
//
// With SCREENSHOTS=DIRECTORY, the test writes a picture of each variant.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { browserTest } from './harness.mjs';

const VARIANTS = {
  light: { colorScheme: 'light', viewport: { width: 1000, height: 700 } },
  dark: { colorScheme: 'dark', viewport: { width: 1000, height: 700 } },
  phone: { colorScheme: 'light', viewport: { width: 360, height: 720 }, deviceScaleFactor: 2 },
  'phone-dark': { colorScheme: 'dark', viewport: { width: 320, height: 640 }, deviceScaleFactor: 2 },
};

/** WCAG 2.2 §1.4.3, for text of any size. */
const CONTRAST_MIN = 4.5;

// The smallest contrast of a text on the page with what is behind it.
function lowestContrast() {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = channels(color)
      .slice(0, 3)
      .map((byte) => byte / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const isClear = (color) => channels(color)[3] === 0;
  const behind = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return isClear(color) && element.parentElement ? behind(element.parentElement) : color;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let lowest = { ratio: Infinity };
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.textContent.trim() === '' || !element.checkVisibility()) {
      continue;
    }
    const [a, b] = [getComputedStyle(element).color, behind(element)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < lowest.ratio) {
      lowest = { ratio, text: walker.currentNode.textContent.trim() };
    }
  }
  return lowest;
}

browserTest('page is readable in every variant', {}, async ({ newPage, server }) => {
  for (const [name, settings] of Object.entries(VARIANTS)) {
    const page = await newPage(settings);
    const [messages, requested] = [[], []];
    page.on('console', (message) => messages.push(message.text()));
    page.on('request', (request) => requested.push(request.url()));
    await page.goto(`${server.url}/`);
    await page.getByText('Healthy', { exact: true }).waitFor();
    assert.equal(await page.getByRole('heading', { level: 1 }).innerText(), `chatfiles version ${await version(page)}`);
    const text = await page.locator('main').innerText();
    assert.ok(text.includes(`${server.url}/{org}/{app}`) && text.includes(`${server.url}/file`), text);
    // No scrolling sideways, and no text of low contrast.
    const { scrollWidth, clientWidth } = await page.evaluate(() => {
      const root = document.documentElement;
      return { scrollWidth: root.scrollWidth, clientWidth: root.clientWidth };
    });
    assert.ok(scrollWidth <= clientWidth, `${name}: ${scrollWidth} of ${clientWidth} pixels`);
    const lowest = await page.evaluate(lowestContrast);
    assert.ok(lowest.ratio >= CONTRAST_MIN, `${name}: ${JSON.stringify(lowest)}`);
    const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const isDark = Number(/\d+/.exec(background)[0]) < 128;
    assert.equal(isDark, settings.colorScheme === 'dark', `${name}: ${background}`);
    if (process.env.SCREENSHOTS) {
      await page.screenshot({ path: path.join(process.env.SCREENSHOTS, `landing-${name}.png`), fullPage: true });
    }
    // The policy blocks nothing that the page needs, and the page needs nothing but itself and its health.
    assert.deepEqual(messages, [], name);
    const others = requested.filter((url) => !url.startsWith('data:'));
    assert.deepEqual([...new Set(others)], [`${server.url}/`, `${server.url}/healthz`], name);
  }
});

const version = async (page) => /version (\S+)/.exec(await page.locator('h1').innerText())[1];

browserTest('page is usable by keyboard and screen reader', {}, async ({ page, server }) => {
  await page.goto(`${server.url}/`);
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'en');
  const status = page.getByRole('status');
  await status.getByText('Healthy').waitFor();
  // Landmarks with names, and headings in order.
  assert.equal(await page.getByRole('main').count(), 1);
  for (const name of ['Easemob API', 'Lanying API']) {
    assert.equal(await page.getByRole('region', { name }).count(), 1, name);
  }
  const levels = await page.evaluate(() => [...document.querySelectorAll('h1,h2,h3')].map((h) => Number(h.tagName[1])));
  assert.ok(levels.every((level, at) => at === 0 || level <= levels[at - 1] + 1), `${levels}`);
  // The documentation is a link, if Cargo.toml says where the repository is. Tab reaches it, and its focus is visible.
  const manifest = await readFile(new URL('../../Cargo.toml', import.meta.url), 'utf8');
  const [, repository] = /^repository = "(.+)"$/m.exec(manifest) ?? [];
  const links = await page.getByRole('link').evaluateAll((all) => all.map((link) => link.href));
  assert.deepEqual(links, repository ? [`${repository}/blob/main/docs/README.md`] : []);
  await page.keyboard.press('Tab');
  const [focused, outline] = await page.evaluate(() => {
    const element = document.activeElement;
    return [element.localName, getComputedStyle(element).outlineStyle];
  });
  assert.deepEqual([focused, outline], repository ? ['a', 'solid'] : ['body', 'none']);
});

browserTest('page without JavaScript shows URLs', { page: { javaScriptEnabled: false } }, async ({ page, server }) => {
  await page.goto(`${server.url}/`);
  const text = await page.locator('main').innerText();
  assert.ok(text.includes(`${server.url}/file`), text);
  assert.ok(text.includes('JavaScript is off'), text);
});

browserTest('page shows when the server is gone', {}, async ({ page, server }) => {
  // The page checks every ten seconds; the test moves the page's clock.
  await page.clock.install();
  await page.goto(`${server.url}/`);
  const health = async (text, state) => {
    await page.clock.runFor(10_000);
    await page.getByText(text, { exact: true }).waitFor();
    assert.equal(await page.locator('#health').getAttribute('data-state'), state);
  };
  await health('Healthy', 'up');
  // A proxy in between that has no server any more.
  await page.route('**/healthz', (route) => route.fulfill({ status: 502, body: 'bad gateway' }));
  await health('Not healthy: status 502', 'down');
  await page.unroute('**/healthz');
  await health('Healthy', 'up');
  await server.stop();
  await health('Not reachable from this browser', 'down');
  if (process.env.SCREENSHOTS) {
    await page.screenshot({ path: path.join(process.env.SCREENSHOTS, 'landing-down.png') });
  }
});

browserTest('injected script and frame are blocked', {}, async ({ page, server, site }) => {
  await page.goto(`${server.url}/`);
  const ran = await page.evaluate(async () => {
    const script = document.createElement('script');
    script.textContent = 'window.injected = true';
    document.body.append(script);
    const image = document.createElement('img');
    image.src = '/healthz';
    const blocked = new Promise((resolve) => {
      image.onerror = () => resolve(true);
      image.onload = () => resolve(false);
    });
    document.body.append(image);
    return { injected: window.injected === true, blocked: await blocked };
  });
  assert.deepEqual(ran, { injected: false, blocked: true });
  site.files.set('/frame', ['text/html', `<!doctype html><iframe src="${server.url}/"></iframe>`]);
  await page.goto(`${site.origin}/frame`);
  const framed = page.frames().find((frame) => frame !== page.mainFrame());
  await framed?.waitForLoadState();
  const text = await framed.evaluate(() => document.body.innerText);
  assert.ok(!text.includes('Easemob'), text);
});
