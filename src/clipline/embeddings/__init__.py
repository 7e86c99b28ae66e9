"""The format of an embeddings folder: its parts, its manifest and how paths are written in it."""
