// Upload as soon as files are chosen, with progress. Without this module the button of the form does it.
function prepare(form) {
  if (form.dataset.ready) return;
  form.dataset.ready = '1';
  const input = form.querySelector('input[type=file]');
  const told = form.querySelector('.progress');
  const button = form.querySelector('button');
  button.hidden = true;
  input.addEventListener('change', () => { if (input.files.length) send(form, input, told, button); });
}

function send(form, input, told, button) {
  const tooBig = [...input.files].find((file) => file.size > 10 * 1024 * 1024);
  if (tooBig) { told.textContent = `“${tooBig.name}”超过10MB，请压缩后再传。`; input.value = ''; return; }
  const request = new XMLHttpRequest();
  const bar = document.createElement('progress');
  bar.max = 1;
  told.replaceChildren(bar, ' 正在上传…');
  request.upload.onprogress = (event) => { if (event.lengthComputable) bar.value = event.loaded / event.total; };
  request.onload = () => {
    const page = new DOMParser().parseFromString(request.responseText, 'text/html');
    const newer = page.getElementById('live');
    const id = form.closest('section').id;
    if (!newer) return failed();
    document.getElementById('live').replaceChildren(...newer.childNodes);
    start();
    const section = document.getElementById(id);
    section?.scrollIntoView({ block: 'nearest' });
    const note = section?.querySelector('.progress');
    if (note && request.status < 400) note.textContent = '上传成功';
  };
  const failed = () => { told.textContent = '没有传上去，请再试一次。'; input.value = ''; button.hidden = false; };
  request.onerror = failed;
  request.open('POST', form.action);
  request.send(new FormData(form));
}

function start() { document.querySelectorAll('[data-upload]').forEach(prepare); }
start();
addEventListener('renewed', start);
