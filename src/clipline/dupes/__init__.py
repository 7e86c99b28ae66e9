"""Near-duplicates and outliers among images, by the cosines of their embeddings. No file is deleted."""
