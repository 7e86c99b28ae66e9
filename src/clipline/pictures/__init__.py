"""Pictures for people: galleries of search results, thumbnails and plots."""
