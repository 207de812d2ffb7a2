// A chosen template goes into its text, to be finished there; what somebody has written themselves is never replaced.
for (const choice of document.querySelectorAll('select[data-into]')) {
  const text = document.getElementById(choice.dataset.into)
  let last = ''
  choice.addEventListener('change', () => {
    if (text.value.trim() && text.value !== last) return
    last = text.value = choice.value
    choice.name = choice.value ? '' : 'template'
    const outcome = choice.selectedOptions[0].dataset.outcome
    const radio = outcome && choice.form.querySelector(`input[name="outcome"][value="${outcome}"]`)
    if (radio) radio.checked = true
    text.focus()
  })
}
