"""Datasets: where they come from, which captions and splits they have, how they are packed and read."""
