"""The model: two towers, two heads and a temperature, all configured by the recipe.

Shape suffixes, here and in `losses` and `train`: B batch, H height, W width, L tokens, F tower features,
D embedding.
"""
