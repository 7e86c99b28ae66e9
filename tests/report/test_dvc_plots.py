"""`dvc plots show` draws what dvc.yaml lists, with the data of the stages."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shown(workspace, tmp_path_factory) -> dict[str, dict]:
    """Title -> Vega-Lite specification, as `dvc plots show` writes them for the project's plots and a finished run."""
    folder = tmp_path_factory.mktemp("plots")
    shutil.copytree(workspace / "reports", folder / "reports")
    yaml = YAML(typ="safe")
    with (folder / "dvc.yaml").open("w") as file:
        yaml.dump({"plots": yaml.load(ROOT / "dvc.yaml")["plots"]}, file)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "plots", "show", "--out", "out"]):
        result = subprocess.run(
            command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert "ERROR" not in result.stderr and "failed" not in result.stderr, result.stderr
    page = (folder / "out/index.html").read_text()
    specs = [json.loads(spec) for spec in re.findall(r"var spec = (\{.*\});?$", page, flags=re.MULTILINE)]
    return {spec["title"]["text"]: spec for spec in specs}


def rows(spec: dict) -> list[dict]:
    """The data of a specification, wherever its template puts them."""
    return spec["data"]["values"]


def test_every_plot_of_the_project_is_drawn(shown):
    plots = [name for plot in YAML(typ="safe").load(ROOT / "dvc.yaml")["plots"] for name in plot]
    assert len(plots) >= 4
    assert list(shown) == plots
    assert all(rows(spec) for spec in shown.values())


def test_recall_by_rank_has_a_line_for_each_direction(shown, workspace):
    with (workspace / "reports/recall.csv").open() as file:
        wanted = [row["text_to_image"] for row in csv.DictReader(file)]
    drawn = rows(shown["Answered within rank k on the test split"])
    assert {row["field"] for row in drawn} == {"image_to_text", "text_to_image"}
    values = [row["dvc_inferred_y_value"] for row in drawn if row["field"] == "text_to_image"]
    assert values == wanted


def test_confused_words_are_counted_row_by_row(shown, workspace):
    with (workspace / "reports/words.csv").open() as file:
        wanted = [(row["asked"], row["found"]) for row in csv.DictReader(file)]
    drawn = [(row["asked"], row["found"]) for row in rows(shown["Words asked for and words found instead"])]
    assert drawn == wanted and len(wanted) > 10
