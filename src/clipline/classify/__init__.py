"""Zero-shot labels for folders of images, and how well they do on labelled ones."""
