"""Search an embeddings folder by words and images: exact or approximate, on one machine, without torch."""
