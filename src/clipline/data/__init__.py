"""Datasets: where they come from (`sources/`), their captions and splits, and data/prepared, which training reads."""
