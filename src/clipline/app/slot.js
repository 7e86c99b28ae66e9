// A picture that was just chosen is brought into sight.
watch('value', () => requestAnimationFrame(() => {
  const top = element.getBoundingClientRect().top
  if (top < 0) window.scrollBy({ top: top - 80 })
}))
