"""clipline: from a folder of captioned images to your own CLIP in production."""
