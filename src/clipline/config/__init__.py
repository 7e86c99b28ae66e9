"""Settings: YAML files read into frozen, typed, strict objects.

`base` reads a file and words its errors; `dataset` is configs/data/*.yaml, `recipe` is configs/recipe/*.yaml,
`run` is params.yaml, which names one of each.
"""
