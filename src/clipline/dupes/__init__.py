"""Images that are nearly the same, and images that are like no others, by their embeddings. Nothing is deleted."""
