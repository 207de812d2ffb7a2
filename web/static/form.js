// The form of a draft: fields that depend on others appear when they are asked; what is typed saves itself a moment after typing stops and
// when the page is left. Until the server has it, it lies in this browser, so that a dead battery or a dead network loses nothing.
const form = document.querySelector('[data-form]');
const saved = document.getElementById('saved');
const PREFIX = 'hall.draft.';
const KEPT_FOR_MS = 7 * 24 * 3600 * 1000;

const isAnswer = (name) => /^[fq]\./.test(name);
const controls = (name) => [...form.elements].filter((field) => field.name === name);
const entries = () => [...new FormData(form)].filter(([name]) => isAnswer(name));
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function chosen(key) {
  return controls('f.' + key).filter((field) => !/^(radio|checkbox)$/.test(field.type) || field.checked).map((field) => field.value);
}

function showAsked() {
  for (const box of form.querySelectorAll('[data-show-when]')) {
    const wanted = JSON.parse(box.dataset.showWhen);
    box.hidden = !Object.entries(wanted).every(([key, values]) => values.some((value) => chosen(key).includes(String(value))));
    const note = box.querySelector('.when');
    if (note) note.hidden = true;
  }
}

// --- what lies in this browser until the server has it ---

// A copy of each tab, so that one that saves never clears what another has not got through.
function tab() {
  try {
    if (!sessionStorage.getItem('hall.tab')) sessionStorage.setItem('hall.tab', Math.random().toString(36).slice(2));
    return sessionStorage.getItem('hall.tab');
  } catch { return ''; }
}

const store = {
  draft: form ? PREFIX + form.dataset.form + '.' : '',
  key: form ? PREFIX + form.dataset.form + '.' + tab() : '',
  // The newest copy of a tab that is gone becomes this one's. Should that tab still be there, both send the same answers.
  adopt() {
    try {
      const copies = Object.keys(localStorage).filter((key) => key.startsWith(this.draft) && key !== this.key);
      const at = (key) => JSON.parse(localStorage.getItem(key)).at;
      const key = copies.sort((one, other) => at(other) - at(one))[0];
      if (!key) return null;
      localStorage.setItem(this.key, localStorage.getItem(key));
      localStorage.removeItem(key);
      return this.read();
    } catch { return null; }
  },
  read() { try { return JSON.parse(localStorage.getItem(this.key)); } catch { return null; } },
  write(isPosted = false) {
    const { version, base } = form.elements;
    const kept = { at: Date.now(), version: version.value, base: base.value, entries: entries(), isPosted };
    try { localStorage.setItem(this.key, JSON.stringify(kept)); } catch { /* full or forbidden: the server still gets it */ }
  },
  clear() { try { localStorage.removeItem(this.key); } catch { /* never there */ } },
  prune() {
    try {
      for (const key of Object.keys(localStorage).filter((name) => name.startsWith(PREFIX))) {
        if (!(Date.now() - JSON.parse(localStorage.getItem(key)).at < KEPT_FOR_MS)) localStorage.removeItem(key);
      }
    } catch { /* nothing to tidy up */ }
  },
};

function fill(kept) {
  const values = new Map();
  for (const [name, value] of kept) values.set(name, [...(values.get(name) || []), value]);
  for (const name of values.keys()) {
    const row = name.match(/^(f\.\w+)\.(\d+)\.\d+$/);
    if (row) while (!controls(name).length && addRow(row[1]));
  }
  const names = new Set([...form.elements].map((field) => field.name).filter(isAnswer));
  for (const name of names) setAnswer(name, values.get(name) || []);
  showAsked();
}

// Returns false where the inputs cannot show the answer.
function setAnswer(name, values) {
  const fields = controls(name);
  if (!fields.length) return false;
  if (/^(radio|checkbox)$/.test(fields[0].type)) fields.forEach((field) => { field.checked = values.includes(field.value); });
  else if (values.length > fields.length) return false;
  else fields.forEach((field, place) => { field.value = values[place] ?? ''; });
  return true;
}

function addRow(name) {
  const table = form.querySelector(`[data-table="${CSS.escape(name)}"]`);
  const rows = table ? table.querySelectorAll('.tablerow') : [];
  if (!rows.length || rows.length >= 50) return false;
  const row = rows[rows.length - 1].cloneNode(true);
  row.setAttribute('aria-label', `第${rows.length + 1}行`);
  row.querySelector('b').textContent = `第${rows.length + 1}行`;
  row.querySelectorAll('input').forEach((field, place) => { field.value = ''; field.name = `${name}.${rows.length}.${place}`; });
  table.append(row);
  return true;
}

// --- saving ---

let timer = 0;
let saving = false;
let again = false;
let ended = false;

function body() {
  const data = new URLSearchParams(new FormData(form));
  // Where the person has not chosen between two answers yet, neither is sent.
  for (const box of form.querySelectorAll('.conflict')) if (!box.querySelector(':checked')) data.append('use.' + box.dataset.name, 'theirs');
  return data;
}

async function save() {
  if (ended) return;
  if (saving) { again = true; return; }
  clearTimeout(timer);
  saving = true;
  say('正在保存…');
  const sent = entries();
  try {
    const answer = await fetch(form.action, { method: 'POST', body: body(), headers: { 'X-Hall-Autosave': '1' } });
    if (answer.redirected) gone(answer.url);
    else if (!(answer.headers.get('Content-Type') || '').includes('json')) throw new Error('no answer of ours');
    else await take(answer, await answer.json(), sent);
  } catch { say('网络不通，内容先存在这台手机上，恢复后自动保存。'); later(8000); }
  saving = false;
  if (again && !ended) { again = false; later(); }
}

function gone(url) {
  ended = true;
  if (url.includes('/sign-in')) return say('登录已过期，内容先存在这台手机上。', url, '重新登录');
  store.clear();
  say('这份表已经提交，不能再改。', url, '看进度');
}

async function take(answer, body, sent) {
  if (!answer.ok && !body.conflicts) {
    if (body.code === 'case.action_not_allowed') return gone(form.action.replace(/\/edit$/, ''));
    return say(body.detail || '没有保存成功，请点“先保存”。');
  }
  const now = entries();
  const of = (list, name) => list.filter(([other]) => other === name);
  const disputed = new Set((body.conflicts || []).map((row) => row.name));
  let isWhole = true;
  for (const [name, values] of Object.entries(body.elsewhere)) {
    if (disputed.has(name) || form.querySelector(`.conflict[data-name="${CSS.escape(name)}"]`)) continue;
    // Changed on another device, untouched here: follow. What was typed here since stays, and the page stays as of its old version.
    if (!same(of(now, name), of(sent, name)) || !setAnswer(name, values)) isWhole = false;
  }
  if (isWhole) {
    form.elements.version.value = body.version;
    form.elements.base.value = JSON.stringify(body.base);
  }
  for (const row of body.conflicts || []) dispute(row);
  for (const [key, text] of Object.entries(body.computed)) setText(`[data-computed="${CSS.escape(key)}"]`, text);
  for (const line of form.querySelectorAll('[data-advice]')) {
    line.textContent = body.advice[line.dataset.advice] || '';
    line.hidden = !line.textContent;
  }
  showLeft(body.left);
  showAsked();
  if (same(now, sent) && isWhole && !disputed.size) store.clear();
  else store.write();
  if (disputed.size) say('另一台设备上填的不一样，请在上面选一个。');
  else if (body.is_other_form) say(`已保存 ${body.saved_at}。要填的内容有变化，`, form.action, '点这里刷新');
  else say(isWhole ? `已保存 ${body.saved_at}` : `已保存 ${body.saved_at}，另一台设备也在填，刷新可以看到。`);
}

function dispute(row) {
  document.getElementById('use-' + row.name)?.remove();
  const place = document.getElementById('field-' + row.name.slice(2));
  place?.insertAdjacentHTML('beforeend', row.html);
  const box = document.getElementById('use-' + row.name);
  box?.querySelectorAll('input').forEach((field) => { field.checked = false; });
  box?.scrollIntoView({ block: 'center' });
}

function choose(radio) {
  const box = radio.closest('.conflict');
  const inputs = JSON.parse(box.dataset.theirs);
  if (radio.value === 'theirs' && (!inputs.length || !setAnswer(box.dataset.name, inputs))) return; // the choice itself is sent
  box.remove();
  showAsked();
}

function showLeft(rows) {
  const place = document.getElementById('left');
  if (!place) return; // the list of mistakes stands in its place
  const count = place.querySelector('summary');
  if (!rows.length) {
    place.innerHTML = '<p><b>必填的都填了</b>，核对一遍就可以下一步。</p>';
  } else if (count) {
    count.textContent = count.textContent.replace(/还差 \d+ 项/, `还差 ${rows.length} 项`);
    place.querySelector('ul').replaceChildren(...rows.map((row) => {
      const line = document.createElement('li');
      const link = document.createElement('a');
      link.href = '#field-' + row.key;
      link.textContent = row.label;
      line.append(link);
      return line;
    }));
  }
}

function later(pause = 1500) {
  clearTimeout(timer);
  timer = setTimeout(save, pause);
}

function setText(selector, text) {
  const place = form.querySelector(selector);
  if (place) place.textContent = text;
}

function say(text, href, label) {
  if (!saved) return;
  saved.textContent = text;
  if (!href) return;
  const link = document.createElement('a');
  link.href = href;
  link.textContent = label;
  link.className = 'link';
  saved.append(link);
}

// --- the page ---

function offerRows() {
  for (const table of form.querySelectorAll('[data-table]')) {
    // Empty rows are for those without script; here one is enough, more come on demand.
    const isEmpty = (row) => [...row.querySelectorAll('input')].every((field) => !field.value);
    while (table.children.length > 1 && isEmpty(table.lastElementChild)) table.lastElementChild.remove();
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'btn quiet';
    button.textContent = '加一行';
    button.addEventListener('click', () => { if (addRow(table.dataset.table)) table.lastElementChild.querySelector('input').focus(); });
    table.nextElementSibling?.replaceWith(button);
  }
}

function leave() {
  const kept = store.read();
  if (ended || !kept || saving) return;
  // The page may be gone before an answer comes; what was not acknowledged stays in this browser and is sent when it is opened again.
  fetch(form.action, { method: 'POST', body: body(), headers: { 'X-Hall-Autosave': '1' }, keepalive: true }).catch(() => {});
}

if (form) {
  store.prune();
  offerRows();
  const kept = store.read() || store.adopt();
  if (kept?.isPosted && location.hash === '#saved') store.clear(); // the button saved it
  else if (kept && !same(kept.entries, entries())) {
    form.elements.version.value = kept.version;
    form.elements.base.value = kept.base;
    fill(kept.entries);
    say('找回了上次没来得及保存的内容，正在保存…');
    later(300);
  } else if (kept) store.clear();
  showAsked();
  form.addEventListener('input', (event) => {
    if (event.target.name.startsWith('use.')) choose(event.target);
    showAsked();
    store.write();
    later();
  });
  form.addEventListener('submit', () => { clearTimeout(timer); again = false; store.write(true); });
  addEventListener('online', () => { if (store.read()) later(300); });
  addEventListener('pagehide', leave);
  document.addEventListener('visibilitychange', () => { if (document.hidden) leave(); });
  if (location.hash === '#saved') say('已保存');
  document.querySelector('[aria-invalid=true], .err, .conflict')?.scrollIntoView({ block: 'center' });
}

// The next step is only reached by the button once the server has the form.
const past = document.querySelector('[data-saved]');
if (past) {
  store.key = PREFIX + past.dataset.saved + '.' + tab();
  if (store.read()?.isPosted) store.clear();
}
