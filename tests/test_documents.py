"""Documents name every option, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from fsl_jax.config import base_config, flat

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("benchmarks/*.md")]
)
# Options of sources are in docs/data.md, under each source.
SOURCES = sorted(path.stem for path in (REPOSITORY / "fsl_jax" / "data" / "sources").glob("[a-z]*.py"))


def anchors(document):
    """The names that headings get where Markdown is shown on the usual forges."""
    lines = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_option_is_in_the_document_of_options():
    named = set()
    section = ""
    for line in (REPOSITORY / "docs" / "options.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = next(iter(re.findall(r"`(\w+)`", line)), "")
        if not line.startswith("| `"):
            continue
        group = ""
        for name in re.findall(r"`([\w.]+)`", line.split("|")[1]):
            if name.startswith("."):
                name = group + name
            group = name.rpartition(".")[0]
            whole = (
                name
                if name.split(".")[0] in ("sampler", "episode")
                else f"{section}.{name}".removeprefix(".")
            )
            named.add(whole)
    missing = [
        name
        for name in flat(base_config().to_dict())
        if not any(name == known or name.startswith(f"{known}.") for known in named)
        and not any(name.startswith(f"data.{source}.") for source in SOURCES)
    ]
    assert not missing
    known = set(flat(base_config().to_dict())) | {
        "sampler.options",
        "model.options",
        "algorithm.options",
        "eval.searches",
    }
    assert named <= known
