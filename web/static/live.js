// Progress arrives by itself: a word on the live stream, or a few seconds on a page that waits, and the live part is read again.
// Without this module every page has a link to refresh it.
const part = document.querySelector('[data-live]');
const told = document.getElementById('told');
let waiting = 0;
let stopped = false;

async function renew() {
  if (stopped || document.hidden || isBusy()) return;
  try {
    const answer = await fetch(location.pathname + location.search, { headers: { 'X-Hall-Live': '1' }, redirect: 'error' });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const newer = page.querySelector('[data-live]');
    const bar = page.querySelector('.bar');
    if (bar) document.querySelector('.bar')?.replaceChildren(...bar.childNodes); // the number of unread messages
    if (!newer || newer.dataset.version === part.dataset.version && newer.textContent === part.textContent) return;
    part.replaceChildren(...newer.childNodes);
    Object.assign(part.dataset, newer.dataset);
    if (newer.dataset.wait === undefined) delete part.dataset.wait;
    document.title = page.title;
    part.querySelector('.timeline li')?.classList.add('new');
    const state = part.querySelector('.state');
    if (told && state) told.textContent = '进度有更新：' + state.textContent.trim().slice(0, 120);
    part.dispatchEvent(new CustomEvent('renewed', { bubbles: true }));
  } catch { /* away for a moment: the next word or the next tick tries again */ }
}

// Nothing is replaced under the fingers of somebody who types, chooses a file or has begun to rate.
function isBusy() {
  const active = document.activeElement;
  if (active && part.contains(active) && /^(INPUT|TEXTAREA|SELECT)$/.test(active.tagName)) return true;
  return [...part.querySelectorAll('textarea, input[type=file], input[type=radio]')].some((field) =>
    field.type === 'radio' ? field.checked && !field.defaultChecked : field.value !== (field.defaultValue ?? ''));
}

function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(renew, 250);
}

let pause = 1000;
function listen() {
  const socket = new WebSocket(location.origin.replace('http', 'ws') + '/v1/stream');
  socket.onopen = () => { pause = 1000; soon(); };
  // What has no id goes to everybody (a notice): if every open page asked again at once for that, the hall would have a rush of them.
  socket.onmessage = (event) => { if (JSON.parse(event.data).id !== null) soon(); };
  socket.onclose = (event) => {
    if (event.code === 1008 || event.code >= 4400 && event.code < 4500) return; // not signed in any more
    setTimeout(listen, pause);
    pause = Math.min(pause * 2, 60000);
  };
}

if (part) {
  listen();
  document.addEventListener('visibilitychange', () => { if (!document.hidden) soon(); });
  // Where somebody waits for a provider's answer the page asks by itself, often at first, then less.
  let ticks = 0;
  setInterval(() => {
    ticks += 1;
    const every = part.dataset.wait !== undefined ? (ticks < 40 ? 3 : 15) : 30;
    if (ticks % every === 0) renew();
  }, 1000);
  addEventListener('pagehide', () => { stopped = true; });
  addEventListener('pageshow', () => { stopped = false; });
}
