"""What a trained model finds and misses, told in pictures, on one page and in a model card.

`examples`, `ranking` and `words` look at an embedded test split, `pictures` draws what they see; `facts` gathers
what the stages wrote, `page` and `card` tell it. Needs neither torch nor mlflow nor dvc.
"""
