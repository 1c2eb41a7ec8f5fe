import subprocess
import sys

import pytest
from conftest import main
from transformers import CONFIG_MAPPING

from biaslab.models.table import ARCHITECTURES, REFUSED


@pytest.fixture
def printed(capsys) -> list[str]:
    main(["models"])
    return capsys.readouterr().out.splitlines()


def test_each_type_has_a_line_that_says_what_works(printed):
    lines = {line.split()[0]: line.split()[1:] for line in printed if line.strip()}
    assert lines["type"] == ["kind", "find", "suppress", "bake", "keys", "beginnings"]
    for name, entry in ARCHITECTURES.items():
        find = "yes" if entry.replay else "slow"
        assert lines[name][:4] == ["masked" if entry.masked else "causal", find, "yes", "yes"]
    assert lines["gemma4_text"][1] == "slow"
    assert lines["bert"][4:] == []
    assert lines["qwen3"][4:] == ["yes", "yes"]
    assert lines["gptj"][4:] == ["no", "yes"]
    assert lines["bloom"][4:] == ["no", "no"]


def test_refused_types_stand_beside_their_reasons(printed):
    refused = " ".join(printed[printed.index("Unsupported types") :])
    for name, reason in REFUSED.items():
        assert name in refused
        assert reason in " ".join(refused.split())
    assert max(map(len, printed)) <= 80


def test_all_names_are_types_of_transformers():
    assert {*ARCHITECTURES, *REFUSED} <= set(CONFIG_MAPPING)


def test_it_loads_neither_torch_nor_transformers():
    code = """import sys
sys.argv = ["biaslab", "models"]
from biaslab.__main__ import main
main()
assert not set(sys.modules) & {"torch", "transformers", "pytorch_lightning", "matplotlib"}"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
