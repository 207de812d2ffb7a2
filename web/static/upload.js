// Upload as soon as files are chosen: in pieces, with progress, and on from where it stopped after a break. Without this module the button of
// the form does it.
const MAX_BYTES = 10 * 1024 * 1024;
const TRIES = 6;
const AT_ONCE = 2;

class Refused extends Error {}

function prepare(form) {
  if (form.dataset.ready) return;
  form.dataset.ready = '1';
  form.querySelector('button').hidden = true;
  for (const input of form.querySelectorAll('input[type=file]')) {
    input.addEventListener('change', () => { if (input.files.length) sendAll(form, [...input.files]).finally(() => { input.value = ''; }); });
  }
  // A phone has a camera to open at once; elsewhere there is only the file to choose.
  if (!matchMedia('(pointer: coarse)').matches) return;
  form.querySelector('label[data-camera]').hidden = false;
  form.querySelector('label:not([data-camera])').firstChild.data = '选照片或文件';
}

async function sendAll(form, files) {
  const told = form.querySelector('.progress');
  const bar = document.createElement('progress');
  bar.max = 1;
  bar.value = 0;
  const id = form.closest('section').id;
  const places = [...document.querySelectorAll('[data-upload] input[type=file]')];
  places.forEach((input) => { input.disabled = true; });
  try {
    for (const [number, file] of files.entries()) {
      if (file.size > MAX_BYTES) throw new Refused(`“${file.name}”超过10MB，请压缩后再传。`);
      const say = (text) => told.replaceChildren(bar, ` ${text}${files.length > 1 ? `（第${number + 1}个，共${files.length}个）` : ''}`);
      say('正在上传…');
      await send(form, file, bar, say);
    }
    await renew(form, id, '上传成功');
  } catch (error) {
    await renew(form, id, error instanceof Refused ? error.message : '网络断了，没有传完。再选一次同一个文件，会接着传。', true);
  } finally {
    places.forEach((input) => { input.disabled = false; });
  }
}

async function send(form, file, bar, say) {
  const sum = await checksum(file);
  const body = JSON.stringify({ name: file.name, size: file.size, ...(sum && { sha256: sum }) });
  const upload = await call(form, 'POST', '', body, say);
  const arrived = new Set(upload.received);
  if (upload.state === 'done') return;
  if (arrived.size) say('接着上次继续传…');
  const waiting = [...Array(upload.pieces).keys()].filter((number) => !arrived.has(number));
  const show = () => { bar.value = arrived.size / upload.pieces; };
  show();
  const work = async () => {
    for (let number = waiting.shift(); number !== undefined; number = waiting.shift()) {
      const begin = number * upload.piece_size;
      await call(form, 'PUT', `/${upload.id}/pieces/${number}`, file.slice(begin, begin + upload.piece_size), say);
      arrived.add(number);
      show();
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  say('正在检查…');
  await call(form, 'POST', `/${upload.id}/complete`, '', say);
}

async function checksum(file) {
  try {
    const sum = await crypto.subtle.digest('SHA-256', await file.arrayBuffer());
    return [...new Uint8Array(sum)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  } catch { return ''; } // an old browser, or no safe connection: then it cannot be resumed after the page is closed
}

// Everything may be sent again without harm, so what was not answered simply is.
async function call(form, method, path, body, say) {
  const headers = { 'X-XSRFToken': form.elements._xsrf.value, 'Accept-Language': 'zh-CN' };
  if (typeof body === 'string' && body) headers['Content-Type'] = 'application/json';
  for (let tries = 1; ; tries += 1) {
    try {
      const answer = await fetch(form.dataset.upload + path, { method, body: body || undefined, headers });
      if (answer.ok) return await answer.json();
      const problem = await answer.json().catch(() => ({}));
      const isPassing = answer.status >= 500 || problem.code === 'case.conflict';
      if (!isPassing) throw new Refused(problem.errors?.[0]?.detail || problem.detail || '没有传上去，请再试一次。');
    } catch (error) {
      if (error instanceof Refused || tries >= TRIES) throw error;
    }
    if (tries >= TRIES) throw new Error('no answer');
    say('网络不好，正在重试…');
    await new Promise((done) => { setTimeout(done, 500 * 2 ** tries); });
  }
}

// The page as it is now, with a word about what happened.
async function renew(form, id, text, isProblem = false) {
  try {
    const answer = await fetch(location.href, { headers: { Accept: 'text/html' } });
    const newer = new DOMParser().parseFromString(await answer.text(), 'text/html').getElementById('live');
    if (newer) {
      document.getElementById('live').replaceChildren(...newer.childNodes);
      start();
    }
  } catch { /* still away: what is shown stays */ }
  const section = document.getElementById(id);
  const note = section?.querySelector('.progress');
  if (!note) return;
  note.textContent = text;
  note.classList.toggle('err', isProblem);
  section.scrollIntoView({ block: 'nearest' });
}

function start() { document.querySelectorAll('[data-upload]').forEach(prepare); }
start();
addEventListener('renewed', start);
