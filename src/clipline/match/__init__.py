"""A multiple-choice test of the model: which of some captions is this image's own?"""
