// A press of `Use` below an image, and what a new page of images does to the window and to screen readers.
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-picture]')
  if (button) trigger('use', { picture: button.dataset.picture })
})
const said = document.createElement('div')
said.className = 'said'
said.setAttribute('role', 'status')
element.after(said)
watch('value', () => requestAnimationFrame(() => {
  said.textContent = element.querySelector('.head')?.innerText ?? ''
  const top = element.getBoundingClientRect().top
  if (top < 0) window.scrollBy({ top: top - 16 })
}))
