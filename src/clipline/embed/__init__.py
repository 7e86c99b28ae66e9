"""Embed a folder of images: scan -> decode -> batch -> infer -> write, with onnxruntime and without torch."""
