"""The model: two towers, two heads, a temperature; the recipe is its whole configuration.

Shape suffixes, here and in `losses` and `train`: B batch, H height, W width, L tokens, F tower features,
D embedding.
"""
