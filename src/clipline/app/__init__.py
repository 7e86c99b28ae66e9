"""The web page over an embeddings folder: search in words and by image, labels and captions, on the exported model."""
