element.addEventListener('click', (event) => {
  const chip = event.target.closest('[data-query]')
  if (chip) trigger('ask', { query: chip.dataset.query })
})
