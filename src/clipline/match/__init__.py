"""Match captions to an image, and a multiple-choice test of the model: which of some captions describes this image?"""
