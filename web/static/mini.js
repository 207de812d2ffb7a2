// Inside a mini-program's web-view: hand over to the mini-program's own page for what only it can do (sign-in, paying, face check).
// The platforms put a bridge into their web-views: `my` at Alipay, `wx.miniProgram` or WeixinJSBridge at WeChat. No vendor script is loaded.
export function go(url) {
  if (window.my?.navigateTo) return window.my.navigateTo({ url }), true;
  if (window.wx?.miniProgram) return window.wx.miniProgram.navigateTo({ url }), true;
  if (window.WeixinJSBridge && window.__wxjs_environment === 'miniprogram') {
    window.WeixinJSBridge.invoke('invokeMiniProgramAPI', { name: 'navigateTo', arg: { url } });
    return true;
  }
  return false;
}

for (const button of document.querySelectorAll('[data-mini-program]')) {
  button.addEventListener('click', () => {
    if (!go(button.dataset.miniProgram)) {
      const note = document.createElement('p');
      note.className = 'note warn';
      note.setAttribute('role', 'alert');
      note.textContent = '请在“韶关掌上办事大厅”小程序里打开这个页面。';
      button.replaceWith(note);
    }
  });
}

// A page that exists only to hand over does so at once; its button stays for when the bridge comes late.
const now = document.querySelector('[data-mini-now]');
if (now) (document.readyState === 'complete' ? setTimeout : addEventListener.bind(null, 'load'))(() => go(now.dataset.miniNow));

const face = document.querySelector('[data-mini-face]');
if (face) go('/pages/face/face?check=' + encodeURIComponent(face.dataset.miniFace));
