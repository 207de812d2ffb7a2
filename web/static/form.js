// The form of a draft: fields that depend on others appear when they are asked, and what is typed saves itself.
const form = document.querySelector('[data-form]');
const saved = document.getElementById('saved');

function chosen(key) {
  return [...form.elements].filter((field) => field.name === 'f.' + key && (!/^(radio|checkbox)$/.test(field.type) || field.checked)).map((field) => field.value);
}

function showAsked() {
  for (const box of form.querySelectorAll('[data-show-when]')) {
    const wanted = JSON.parse(box.dataset.showWhen);
    box.hidden = !Object.entries(wanted).every(([key, values]) => values.some((value) => chosen(key).includes(String(value))));
    const note = box.querySelector('.when');
    if (note) note.hidden = true;
  }
}

let timer = 0;
let saving = false;
let again = false;

async function save() {
  if (saving) { again = true; return; }
  saving = true;
  say('正在保存…');
  try {
    const answer = await fetch(form.action, { method: 'POST', body: new URLSearchParams(new FormData(form)), headers: { 'X-Hall-Autosave': '1' } });
    if (answer.redirected || !(answer.headers.get('Content-Type') || '').includes('json')) throw new Error('signed out');
    const body = await answer.json();
    if (answer.ok) {
      form.elements.version.value = body.version;
      say('已自动保存，' + body.saved_at);
    } else say(body.detail || '没有保存成功，请点“先保存”。');
  } catch { say('网络不通，还没有保存；恢复后会再试。'); later(8000); }
  saving = false;
  if (again) { again = false; later(); }
}

function later(pause = 1500) {
  clearTimeout(timer);
  timer = setTimeout(save, pause);
}

function say(text) { if (saved) saved.textContent = text; }

if (form) {
  showAsked();
  form.addEventListener('input', () => { showAsked(); later(); });
  form.addEventListener('submit', () => { clearTimeout(timer); again = false; });
  if (location.hash === '#saved') say('已保存');
  document.querySelector('[aria-invalid=true], .err')?.scrollIntoView({ block: 'center' });
}
