// Files chosen, dropped anywhere on the page, or pasted: sent to the server, which answers with the picture's name.
// This runs in the header, as Gradio makes what is on a tab only when the tab is first opened.
const LIMIT = 20 * 1024 * 1024
const places = () => [...document.querySelectorAll('.problem')]
const say = (words) => {
  for (const place of places()) place.textContent = ''
  const seen = places().filter((place) => place.parentElement.offsetWidth).pop()
  if (seen) seen.textContent = words
}
const busy = (on) => document.body.classList.toggle('sending', on)

async function send(file) {
  if (!file) return
  if (file.size > LIMIT) return say('This file is over the limit of 20 MB.')
  say('')
  busy(true)
  try {
    const answer = await fetch('pictures/upload', { method: 'POST', body: file, headers: { 'Content-Type': 'application/octet-stream' } })
    const found = await answer.json().catch(() => ({ error: 'The server refused this file.' }))
    if (found.picture) trigger('chosen', { picture: found.picture })
    else say(found.error)
  } catch {
    say('The server does not answer. Is it still running?')
  } finally {
    busy(false)
  }
}

document.addEventListener('change', (event) => {
  if (!event.target.matches('#slot input[type=file]')) return
  send(event.target.files[0])
  event.target.value = ''
})
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files')
document.addEventListener('dragover', (event) => {
  if (!hasFiles(event)) return
  event.preventDefault()
  document.body.classList.add('dragging')
})
document.addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) document.body.classList.remove('dragging')
})
document.addEventListener('drop', (event) => {
  document.body.classList.remove('dragging')
  if (!hasFiles(event)) return
  event.preventDefault()
  send(event.dataTransfer.files[0])
})
document.addEventListener('paste', (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith('image/'))
  if (file) send(file)
})
