"""Training: samples -> features (cached where a tower is frozen) -> loop -> checkpoint."""
