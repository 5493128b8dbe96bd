'use strict';

// Asks for the server's health as this browser sees it, through every proxy in between.
const EVERY_MS = 10_000;
const TIMEOUT_MS = 5_000;

function show(state, text, time) {
  document.getElementById('health').dataset.state = state;
  const status = document.getElementById('state');
  // A screen reader announces a new text, also if it is the same.
  if (status.textContent !== text) {
    status.textContent = text;
  }
  document.getElementById('time').textContent = time;
}

async function check() {
  const started = performance.now();
  try {
    const response = await fetch('/healthz', { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT_MS) });
    const took = Math.max(1, Math.round(performance.now() - started));
    const isUp = response.ok && (await response.json()).status === 'ok';
    show(isUp ? 'up' : 'down', isUp ? 'Healthy' : `Not healthy: status ${response.status}`, `(answered in ${took} ms)`);
  } catch {
    show('down', 'Not reachable from this browser', '');
  }
}

async function checkForever() {
  show('unknown', 'Checking the health', '');
  for (;;) {
    await check();
    do {
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    } while (document.hidden);
  }
}

checkForever();
