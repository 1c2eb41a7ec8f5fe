"""What the README and the documentation say holds; that their commands and code run is tested in docs/."""

import re

import pytest
from doc_pages import PYTHON, ROOT, blocks, pages

from biaslab.models.architectures import ARCHITECTURES

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_five_everyday_commands():
    (section,) = re.findall(r"## Everyday commands\n(.*?)\n## ", README, re.DOTALL)
    assert section.count("\nbiaslab ") == 5


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_supported_types_are_those_of_the_table(kind):
    """In the README or on a page, wherever they are listed."""
    texts = [path.read_text(encoding="utf-8") for path in pages()]
    lines = [line for text in texts for line in re.findall(rf"^\| {kind} \| (.*) \|$", text, re.MULTILINE)]
    assert lines
    types = [name for name, entry in ARCHITECTURES.items() if entry.masked is (kind == "masked")]
    for line in lines:
        assert re.sub(r" \(.*?\)|`", "", line).split(", ") == types


@pytest.mark.assets
def test_python_example(asset):
    """The README's, or else the first of the pages, on the real model."""
    asset("minilm-encoder")
    code = next(
        block.text
        for path in pages()
        for block in blocks(path)
        if block.language in PYTHON and "integrated_gap_gradients(" in block.text and "NeuronSet(" in block.text
    )
    names: dict = {}
    exec(code, names)
    assert len(names["neurons"]) == 20
    assert names["after"].shape == (1, 2)


def test_adapter_is_small():
    assert (ROOT / "biaslab" / "models" / "minilm_mlm.safetensors").stat().st_size <= 8e6
