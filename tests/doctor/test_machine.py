"""Detection of onnxruntime wheels, CPU and image formats."""

import io
import os
from importlib import metadata

import pytest
from PIL import Image

from clipline.doctor import machine
from clipline.utils import cores


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install("onnxruntime", "1.0"): write that distribution as pip does; no other is listed as installed."""
    original = metadata.distributions
    # The real packages stay importable; only the list of distributions is replaced.
    monkeypatch.setattr(metadata, "distributions", lambda: original(path=[str(tmp_path)]))

    def write(name: str, version: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    return write


def test_the_wheel_that_is_here():
    installed = machine.wheels()
    assert len(installed) == 1, "the development environment has one"
    assert machine.wheel_problems(installed) == []


def test_two_wheels_are_a_problem_with_its_fix(install):
    install("onnxruntime", "1.31.1")
    install("onnxruntime_gpu", "1.30.0")
    install("onnxruntime-extensions", "0.13.0")
    installed = machine.wheels()
    assert installed == {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"}
    (problem,) = machine.wheel_problems(installed)
    assert "onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0 are installed" in problem
    assert "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'clipline[cpu]'" in problem


def test_a_module_of_another_version_was_overwritten(install):
    install("onnxruntime", "1.2.3")
    (problem,) = machine.wheel_problems(machine.wheels())
    assert problem.startswith("onnxruntime 1.2.3 is installed, but its module is of ")


def test_the_version_of_a_build_is_no_other_version(install):
    import onnxruntime

    install("onnxruntime-gpu", f"{onnxruntime.__version__}+cu13")
    assert machine.wheel_problems(machine.wheels()) == []


def test_no_wheel(install):
    assert machine.wheels() == {}
    assert machine.wheel_problems({}) == [], "onnxruntime may have been built here"


def test_versions():
    assert machine.versions()["pillow"] == metadata.version("pillow")
    assert machine.system().startswith("Python 3.")


def test_cpu():
    cpu_info = machine.cpu()
    assert cpu_info.model
    assert cpu_info.usable == cores.available() <= cpu_info.affinity <= cpu_info.cores == os.cpu_count()
    assert set(cpu_info.flags) <= set(machine.FLAGS)
    assert f"{cpu_info.usable} of {cpu_info.cores} cores" in str(cpu_info)


def test_formats_are_those_that_are_really_read():
    for kind in machine.formats():
        if kind.name == "HEIC":
            continue  # Pillow does not write HEIC
        data = io.BytesIO()
        try:
            Image.new("RGB", (8, 8), "red").save(data, kind.name)
            Image.open(data).load()
            read = True
        except (OSError, KeyError):
            read = False
        assert kind.read == read, kind
