"""The example notebook on what `dvc repro` leaves behind: `make test-pipeline`. See tests/examples."""

import re

from tests.examples.conftest import output_of, run, tools  # noqa: F401


def test_it_runs_on_what_the_pipeline_made(published, tools):  # noqa: F811
    for command in (("git", "checkout", "-q", "--", "."), ("dvc", "checkout", "--force")):
        published.run(*command)  # a test before this one may have tried something there
    ran = run(tools, published.folder)
    assert output_of(ran, "done.embedded") == "'90 pictures embedded, 0 were already, 0 cannot be read'"
    (model,) = re.findall(r"model (\w+):", output_of(ran, "clip = Clip"))
    assert f'"{model}"' in (published.folder / "models/onnx/manifest.json").read_text()
    results = re.findall(r"path='(\S+)', .*?score=(-?[\d.]+)", output_of(ran, "results[0][:2]"))
    by_hand = re.findall(r"'(\S+)', (-?[\d.]+)", output_of(ran, "scores.argsort()"))
    assert by_hand[0] == (results[0][0], f"{float(results[0][1]):.3f}")
    chances = [float(text) for text in re.findall(r"\| ([\d.]+)% \|", output_of(ran, "clip.match"))]
    assert len(chances) == 5 and 99 < sum(chances) < 101
    # What it writes is no part of the repository, nor of the pipeline.
    assert not published.run("git", "status", "--porcelain").stdout
    assert "up to date" in published.run("dvc", "status").stdout
