"""The pages for those who work here say what is there: files, commands, excerpts, modules, names to import."""

import re

import pytest
from conftest import ROOT

import unet_paper

PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
# what a table of moves says was there
GONE = re.compile(r"^\| `[^|]*\|", re.MULTILINE)


def _text(page: str) -> str:
    text = (ROOT / page).read_text()
    return GONE.sub("|", text) if page == "CHANGELOG.md" else text


@pytest.mark.parametrize("page", PAGES)
def test_links_scripts_and_configs_exist(page: str) -> None:
    text = _text(page)
    linked = {target for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in target}
    named = set(re.findall(r"\b(?:scripts|tests|unet_paper|bundle)/[\w/.-]*\w\.(?:py|yaml|md|json)\b", text))
    missing = sorted(name for name in linked | named if not (ROOT / name).exists() and "NAME" not in name)
    assert linked or named
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page: str) -> None:
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?\bmake ([a-z]+(?:-[a-z]+)?)", "\n".join(_code(_text(page))))) <= rules


def _code(text: str) -> list[str]:
    """Blocks of commands, and what stands between backticks in a line."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [*blocks, *re.findall(r"`(make [^`]*)`", text)]


def test_excerpts_are_of_the_code_as_it_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    excerpts = re.findall(r"`(\S+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert len(excerpts) == 3
    for file, excerpt in excerpts:
        assert excerpt in (ROOT / file).read_text(), file


def test_the_tests_that_contributing_runs_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (keyword,) = re.findall(r"pytest -k (\w+)", text)
    assert any(keyword in file.read_text() for file in (ROOT / "tests").glob("test_*.py") if str(file) != __file__)


def test_the_plan_names_every_noun_and_every_wing() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    package = ROOT / "unet_paper"
    nouns = [file.name for file in package.glob("*.py") if not file.name.startswith("__")]
    wings = [folder.parent.name for folder in package.glob("*/__init__.py")]
    assert nouns
    assert wings
    assert [name for name in nouns if f"`{name}`" not in text] == [], "give them their place in ARCHITECTURE.md"
    assert [name for name in wings if f'{name}["{name}: ' not in text] == [], "draw them in ARCHITECTURE.md"


def test_names_to_import_are_offered() -> None:
    for page in ("README.md", "ARCHITECTURE.md"):
        (names,) = re.findall(r"`from unet_paper import ([^`]+)`", (ROOT / page).read_text())
        assert set(names.split(", ")) <= set(unet_paper.__all__)
