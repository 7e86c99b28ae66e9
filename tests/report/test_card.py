"""The hub's own reader finds the figures in the model card."""

import re

import pytest
from huggingface_hub import ModelCard

from clipline.report import card


@pytest.fixture(scope="module")
def loaded(summarised, tmp_path_factory) -> ModelCard:
    path = tmp_path_factory.mktemp("card") / "model_card.md"
    path.write_text(card.render(summarised), encoding="utf-8")
    return ModelCard.load(path)


def test_the_figures_come_back(loaded, summarised):
    results = {result.metric_type: result for result in loaded.data.eval_results}
    assert len(results) == 6
    for direction in ("i2t", "t2i"):
        for k in (1, 5, 10):
            result = results[f"{direction}_recall_at_{k}"]
            assert result.metric_value == summarised.exported[f"{direction}_r{k}"]
            assert (result.dataset_name, result.dataset_split) == ("scenes", "test")
            assert result.dataset_revision == summarised.info["dataset_fingerprint"]


def test_metadata(loaded):
    data = loaded.data.to_dict()
    assert data["pipeline_tag"] == "zero-shot-image-classification" and data["library_name"] == "onnx"
    assert data["base_model"] == ["sentence-transformers/all-MiniLM-L6-v2"]
    assert "clip" in data["tags"] and "license" not in data


def test_the_text_says_what_a_user_must_know(loaded, summarised):
    text = loaded.text
    for heading in ("Intended use", "Results", "Limits", "Training data", "How to use", "How it was made"):
        assert f"\n## {heading}\n" in text
    assert "overlap Flickr8k's" in text
    assert summarised.weights in text and summarised.info["dataset_fingerprint"] in text
    assert "clipline embed ~/photos" in text and 'clipline search embeddings/photos "' in text
    assert "secret.bin" not in text and "{{" not in text and "{%" not in text
    assert "image.int8.onnx" not in text, "it was not shipped"


def test_tables_are_whole(loaded):
    """A blank line inside a table ends it: each run of rows has a header, a rule and a body."""
    tables = re.findall(r"(?:^\|.*\|\n)+", loaded.text, flags=re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        header, rule, *rows = table.splitlines()
        assert re.fullmatch(r"(\|---)+\|", rule)
        assert rows and {row.count("|") for row in rows} == {header.count("|")}
