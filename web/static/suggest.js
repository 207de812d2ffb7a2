// Words to choose from while somebody types into the search box: characters, pinyin or initials.
const form = document.querySelector('[data-suggest]');
const input = form?.querySelector('input[type=search]');
let timer = 0;
let asked = '';

async function suggest() {
  const text = input.value.trim();
  if (text === asked) return;
  asked = text;
  if (!text) return show([]);
  try {
    const answer = await fetch('/v1/suggest?q=' + encodeURIComponent(text));
    const body = await answer.json();
    if (text === input.value.trim()) show(body.items || []);
  } catch { show([]); }
}

function show(words) {
  let box = form.querySelector('.suggest');
  if (!box) {
    box = document.createElement('div');
    box.className = 'suggest';
    form.append(box);
  }
  box.hidden = !words.length;
  box.replaceChildren(...words.slice(0, 6).map((word) => {
    const link = document.createElement('a');
    const text = typeof word === 'string' ? word : word.text;
    link.href = word.code ? '/items/' + encodeURIComponent(word.code) : '/search?q=' + encodeURIComponent(text);
    link.textContent = text;
    return link;
  }));
}

if (input) {
  input.addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(suggest, 180); });
  input.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown') { form.querySelector('.suggest a')?.focus(); event.preventDefault(); }
    if (event.key === 'Escape') show([]);
  });
  document.addEventListener('click', (event) => { if (!form.contains(event.target)) show([]); });
}
