"""What a trained model finds and misses: pictures, one HTML page and a model card.

`ranking`, `word_confusion` and `pick_examples` analyse an embedded test split, `figures` draws the results; `summary`
reads what the stages wrote, `page` and `card` present it. Needs neither torch nor mlflow nor dvc.
"""
