import re
from importlib import import_module
from typing import get_type_hints

import pytest
from conftest import main

from biaslab.callbacks import NeuronSuppression
from biaslab.cli import COMMANDS
from biaslab.commands import lightning  # noqa: F401  imports all data modules and tasks
from biaslab.commands.bake import bake
from biaslab.commands.cards import cards
from biaslab.commands.compare import compare
from biaslab.commands.debias import debias
from biaslab.commands.probe import probe
from biaslab.commands.search_prompts import search_prompts
from biaslab.commands.side_effects import side_effects
from biaslab.commands.sweep import sweep
from biaslab.commands.table import table
from biaslab.data.attribute_sentences import AttributeSentencesDataModule
from biaslab.data.corpus import CorpusDataModule, read_sentences
from biaslab.data.module import TokenizedData
from biaslab.data.prompts import PromptDataModule, make_prompts
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.errors import (
    NOT_NEGATIVE,
    RANGES,
    InputError,
    did_you_mean,
    reading,
    require_all_of,
    require_name_or_file,
    require_one_of,
    require_ranges,
)
from biaslab.models import assets
from biaslab.tasks.attribution import Attribution
from biaslab.tasks.base import LanguageModelTask
from biaslab.tasks.baselines.cda import CounterfactualAugmentation
from biaslab.tasks.baselines.dpce import DPCE
from biaslab.tasks.baselines.minilm import AdapterTraining


@pytest.mark.parametrize(
    ("value", "near"),
    [("promts", "prompts"), ("Prompts", "prompts"), ("contrst", "contrast"), ("zebra", None), (3, None)],
)
def test_the_nearest_name(value, near):
    known = ["prompts", "contrast", "both"]
    hint = f" Did you mean {near!r}?" if near else ""
    assert did_you_mean(value, known) == hint
    for check, given in ((require_one_of, value), (require_all_of, ["both", value])):
        with pytest.raises(InputError) as caught:
            check("sources", given, known)
        assert str(caught.value).startswith("`sources` is expected to be ")
        assert ("Did you mean" in str(caught.value)) is bool(hint)
        assert str(caught.value).endswith(hint)


def test_no_values_at_all():
    with pytest.raises(InputError, match=r"`kinds` is expected to be one or more of a, b but got none\."):
        require_all_of("kinds", [], ["a", "b"])


def test_a_file_may_have_a_name_that_is_near(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"`text` is expected to be one of bold, bug, or a file, but got 'blod'\. Did"):
        require_name_or_file("text", "blod", ["bold", "bug"])
    (tmp_path / "blod").touch()
    require_name_or_file("text", "blod", ["bold", "bug"])
    require_name_or_file("text", "elsewhere/text.txt", ["bold", "bug"])  # whoever reads it says that it is not there


@pytest.mark.parametrize(
    "call",
    [
        lambda: read_sentences("blod", "train"),
        lambda: PromptDataModule(contrast="sterioset"),
        lambda: PromptDataModule(contrast=["bold", "knowlege"]),
        lambda: make_prompts(["gendre"], ["positive"], 1, "find"),
        lambda: assets.fetch("stereo-set"),
        lambda: main(["table", "--rows=[bns_balancd]"]),
        lambda: main(["sweep", "--sources=[promts]"]),
        lambda: main(["sweep", "--guards=[boldd]"]),
        lambda: main(["debias", "--text=blod"]),
        lambda: main(["predict", "-c", "atribute"]),
        lambda: main(["debiass"]),
        lambda: main(["debias", "--contrast=[stereoset, blod]"]),
        lambda: main(["debias", "--source_weights={promts: 1.0}"]),
        lambda: main(["sweep", "--source_weights=[{promts: 1.0}]"]),
        lambda: main(["sweep", "--domain_weights=[{gendr: 1.0}]"]),
        lambda: main(["sweep", "--text=blod"]),
    ],
    ids=range(16),
)
def test_lists_of_known_names(call, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, SystemExit)) as caught:
        call()
    assert "Did you mean" in str(caught.value) + capsys.readouterr().err


def test_an_error_of_ours_stays_as_it_is():
    with pytest.raises(InputError, match=r"^mine$"), reading("path", "a list", "f"):
        raise InputError("mine")


WRONG = [float("nan"), float("inf"), -float("inf"), -1, -0.5, 10**30, True, "many", 1 + 2j]


@pytest.mark.parametrize("name", sorted(RANGES))
def test_a_range_takes_no_nonsense(name):
    for value in WRONG:
        if RANGES[name].text == "be a finite number" and value in (-1, -0.5):
            continue
        if not RANGES[name].whole and value == 10**30 and RANGES[name].high > 1:
            continue
        with pytest.raises(InputError, match=rf"^`{name}` is expected to .+ but got .+\.$"):
            require_ranges({name: value})
        with pytest.raises(InputError, match=rf"^`{name}` is expected to .* at \[1\]\.$"):
            require_ranges({name: [None, value]})
        with pytest.raises(InputError, match=rf"^`{name}` is expected to .* at \['race'\]\.$"):
            require_ranges({name: {"race": value}})


def test_the_ends_of_ranges():
    require_ranges({"limit": 1, "share": 1.0, "threshold": 0.2, "steps": "auto", "warmup": 0, "seed": 0, "lr": 1e-9})
    require_ranges({"guard_weight": 0, "factor": -2.5, "alpha": 0.0, "max_length": 3, "unknown": -1, "count": None})
    for bad in ({"share": 0}, {"warmup": 1}, {"masked": 1}, {"limit": 0}, {"limit": 1.0}, {"lr": 0}, {"seed": 2**32}):
        with pytest.raises(InputError):
            require_ranges(bad)
    require_ranges({"perplexity_percent": 0}, perplexity_percent=NOT_NEGATIVE)


def numbers_of(function) -> list[str]:
    """The arguments of a function that take numbers, alone or in lists and mappings."""
    hints = get_type_hints(getattr(function, "__init__", function) if isinstance(function, type) else function)
    return [name for name, hint in hints.items() if name != "return" and re.search(r"\b(int|float)\b", str(hint))]


def test_every_option_that_takes_a_number_has_a_range():
    commands = [getattr(import_module(f"biaslab.commands.{c.function.partition(':')[0]}"), c.function.partition(":")[2])
                for c in COMMANDS.values() if c.function]  # fmt: skip
    classes, left = [LanguageModelTask, AdapterTraining, NeuronSuppression, TokenizedData], []
    while classes:
        left.append(classes.pop())
        classes += left[-1].__subclasses__()
    found = {(each.__name__, name) for each in [*commands, *left] for name in numbers_of(each)}
    assert {name for _, name in found} >= {"limit", "factor", "sentences", "lr", "seed", "thresholds", "save_every"}
    assert [each for each in sorted(found) if each[1] not in RANGES] == []


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (debias, {"sentences": -5}),
        (debias, {"limit": 0}),
        (debias, {"contrast_limit": 0}),
        (debias, {"factor": float("nan")}),
        (debias, {"guard_weight": -1.0}),
        (debias, {"source_weights": {"prompts": float("nan")}}),
        (table, {"limit": -1}),
        (table, {"factor": float("inf")}),
        (sweep, {"guard_weights": [-1.0]}),
        (sweep, {"perplexity_percent": -1.0}),
        (sweep, {"factors": [float("nan")]}),
        (sweep, {"domain_weights": [{"race": -1.0}]}),
        (compare, {"a": "x", "b": "y", "contrast_limit": 0}),
        (compare, {"a": "x", "b": "y", "count": 0}),
        (probe, {"factor": float("nan")}),
        (side_effects, {"neurons": "x", "sentences": -5}),
        (side_effects, {"neurons": "x", "factor": float("inf")}),
        (cards, {"neurons": "x", "modifiers": 0}),
        (cards, {"neurons": "x", "count": -1}),
        (search_prompts, {"depth": 10**6}),
        (bake, {"model": "x", "factor": float("nan")}),
    ],
)
def test_commands_check_their_numbers_before_all_else(workdir, command, options):
    with pytest.raises(InputError, match=rf"^`{list(options)[-1]}.*` is expected to"):
        command(**options)
    assert not list(workdir.iterdir())


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (PromptDataModule, {"modifiers": 0}),
        (CorpusDataModule, {"max_length": 2}),
        (CorpusDataModule, {"masked": 0.0}),
        (AttributeSentencesDataModule, {"seed": -1}),
        (StereoSetDataModule, {"limit": -3}),
        (Attribution, {"guard_weight": float("nan")}),
        (Attribution, {"save_every": -1.0}),
        (Attribution, {"knowledge_weight": -0.5}),
        (Attribution, {"steps": 10**9}),
        (CounterfactualAugmentation, {"weight_decay": -1.0}),
        (DPCE, {"alpha": float("nan")}),
        (AdapterTraining, {"rank": 0}),
        (NeuronSuppression, {"factor": float("inf")}),
    ],
)
def test_classes_check_their_numbers_before_a_model_is_loaded(made, options):
    model = {} if made in (AdapterTraining, NeuronSuppression) else {"model_name": "/nowhere"}
    with pytest.raises(InputError, match=f"^`{next(iter(options))}` is expected to"):
        made(**model, **options)
