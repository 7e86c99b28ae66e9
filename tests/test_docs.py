"""The documentation names only files, headings and commands that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Where a path in a text may start: at the root, among the tests, or in the library.
STARTS = (ROOT, ROOT / "tests", ROOT / "src" / "clipline", ROOT / "src" / "clipline" / "config")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if not path.startswith("http"):
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_files_that_are_named_exist(page):
    for name in re.findall(r"`([\w./]+/[\w]+\.py)(?:::\w+)?`", page.read_text(encoding="utf-8")):
        assert any((start / name).is_file() for start in STARTS) or "yours" in name, name


def test_the_readme_fits_and_its_commands_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 200
    text = "\n".join(re.findall(r"```bash\n(.*?)```", readme, re.DOTALL))
    commands = {file.stem for file in (ROOT / "src" / "clipline" / "cli").glob("*.py")}
    assert set(re.findall(r"^clipline (\w+)", text, re.MULTILINE)) <= commands
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"^make (\w[\w-]*)", text, re.MULTILINE)) <= set(targets)


def test_the_architecture_page_has_a_line_on_every_folder():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = [path for path in (ROOT / "src" / "clipline").iterdir() if path.name not in ("__init__.py", "py.typed")]
    names = {f"{path.name}/" if path.is_dir() else path.name for path in parts if path.name != "__pycache__"}
    assert [name for name in sorted(names) if f"| `{name}` |" not in page] == []
