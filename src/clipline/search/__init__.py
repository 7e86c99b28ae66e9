"""Search an embeddings folder in words: exact, on one machine, without torch."""
