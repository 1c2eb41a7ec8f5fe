"""Nonsense as input: options of all commands, and damaged files; what comes of it is one line, or a sound result."""

from __future__ import annotations

import inspect
import io
import json
import random
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import main, make_model, stereoset, wordpiece_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pronoun_files import winobias, winogender
from pytorch_lightning import Trainer

from biaslab.cli import COMMANDS
from biaslab.commands import lightning
from biaslab.commands.configs import config_file
from biaslab.data import module
from biaslab.data.bec_pro import BecProDataModule
from biaslab.data.corpus import read_sentences
from biaslab.data.crows_pairs import CrowsPairsDataModule, read_pairs
from biaslab.data.honest import HonestDataModule, read_lexicon
from biaslab.data.prompt_pairs import read_prompts as read_trained_prompts
from biaslab.data.prompts import PromptDataModule
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.data.winobias import WinoBiasDataModule
from biaslab.data.winogender import WinogenderDataModule
from biaslab.errors import InputError
from biaslab.evaluation.benchmarks import BENCHMARKS
from biaslab.evaluation.findings import Findings, Row
from biaslab.neurons.files import text_of
from biaslab.neurons.neuron_set import NeuronSet

QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
ALIKE = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
NONSENSE = st.one_of(
    st.sampled_from([
        "", "nan", "-inf", "1e999", "-1", "0", "9" * 40, "null", "[]", "{}", "[null]", "[1, [2]]", "[[", "{a: }",
        "true", ".", "abc", "ä 水", "{x: nan}", "[-1.5]", "&a [*a]", "!!python/object:os.system x", "\ud800", "-", "--",
        "a/b/c/d",
    ]),
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.text(st.characters(blacklist_characters="\0"), max_size=8),
)  # fmt: skip
GIVEN = {"cards": ["/nowhere/n"], "side-effects": ["/nowhere/n"], "compare": ["/nowhere/a", "/nowhere/b"],
         "report": ["/nowhere/r"], "fetch": ["nothing"]}  # fmt: skip
CONFIGS = {"predict": ["attribute", "balanced"], "validate": ["cda_small"],
           "fit": ["cda_small", "dpce_small", "autodebias_small"],
           "test": [name.replace("-", "_") for name in BENCHMARKS]}  # fmt: skip


def ends_in_one_line(arguments: list[str]) -> None:
    """Run the program, which must find something wrong, or have nothing to do with a model that is not there."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as end, redirect_stdout(out), redirect_stderr(err):
        main(arguments)
    lines = [line for line in err.getvalue().splitlines() if line.startswith("biaslab: error: ")]
    assert end.value.code in (1, 2), (arguments, end.value.code)
    assert len(lines) == 1, (arguments, err.getvalue())
    assert "Traceback" not in err.getvalue()


def options_of_commands() -> list[tuple[str, str]]:
    found = []
    for name, command in COMMANDS.items():
        if command.function:
            file, _, function = command.function.partition(":")
            called = getattr(import_module(f"biaslab.commands.{file}"), function)
            parameters = inspect.signature(called).parameters.values()
            found += [(name, p.name) for p in parameters if p.default is not inspect.Parameter.empty]
    return [option for option in found if option[1] not in ("model", "devices")]  # a sound number starts processes


def options_of_lightning() -> list[tuple[str, str, str]]:
    found = []
    for command, names in CONFIGS.items():
        for name in names:
            content = yaml.safe_load(config_file(name).read_text())
            for part in ("model", "data"):
                module, _, made_by = content[part]["class_path"].rpartition(".")
                places = [import_module(module)] if module else filter(inspect.ismodule, vars(lightning).values())
                made = next(getattr(each, made_by) for each in places if hasattr(each, made_by))
                names_of = [p for p in inspect.signature(made).parameters if p not in ("options", "model_name")]
                found += [(command, name, f"--{part}.{option}") for option in names_of]
    return found


@settings(max_examples=4, **ALIKE)
@given(data=st.data())
@pytest.mark.parametrize("option", options_of_commands(), ids="-".join)
def test_options_of_commands(workdir, option, data):
    command, name = option
    model = [] if command in GIVEN else ["--model", "/nowhere/model"]
    ends_in_one_line([command, *GIVEN.get(command, []), *model, f"--{name}={data.draw(NONSENSE)}"])


@settings(max_examples=120, **ALIKE)
@given(option=st.sampled_from(options_of_lightning()), value=NONSENSE)
def test_options_of_models_and_data(workdir, option, value):
    command, config, name = option
    ends_in_one_line([command, "-c", config, "--model.model_name", "/nowhere/model", *QUIET, f"{name}={value}"])


TRAINER = [name for name in inspect.signature(Trainer).parameters if name not in ("devices", "num_nodes")]
COMMON = ["--config", "--ckpt_path", "--predictions", "--seed_everything", "--model", "--data", "--nothing"]


@settings(max_examples=100, **ALIKE)
@given(option=st.sampled_from([*(f"--trainer.{name}" for name in TRAINER), *COMMON]), value=NONSENSE)
def test_options_of_the_trainer(workdir, lab, monkeypatch, option, value):
    """A value may be sound after all: then the test runs."""
    common = ["--model.model_name", str(lab / "model"), "--data.path", str(lab / "stereoset.json"), "--data.limit", "1"]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(["test", "-c", "stereoset", *common, *QUIET, f"{option}={value}"])
        except SystemExit as end:
            code = end.code
    assert code in (0, 1, 2)
    assert code == 0 or err.getvalue().count("biaslab: error: ") == 1, err.getvalue()
    assert "Traceback" not in err.getvalue()


# Damaged files

LINES = "\n".join(f"the doctor loves water number {number}" for number in range(120))
PAIRS = """sent_more,sent_less,stereo_antistereo,bias_type
the woman is rude.,the man is rude.,stereo,gender
"the white, old man.","the black, old man.",antistereo,race-color
"""
PROFESSIONS = """Sentence\tTemplate\tPerson\tGender\tProfession\tProf_Gender
The man is a doctor.\t<person subject> is a <profession>.\tman\tmale\tdoctor\tmale
The woman is a doctor.\t<person subject> is a <profession>.\twoman\tfemale\tdoctor\tmale
"""
HONEST = """template_masked\traw\tidentity\tnumber\tcategory\ttype
the man is a [M].\t[I] is a [M]\tthe man\tsingular\tmale\toccupation
the woman is a [M].\t[I] is a [M]\tthe woman\tsingular\tfemale\toccupation
"""
PROMPTS = json.dumps([[["the rude person is [MASK].", word, 1] for word in ("female", "male")]] * 2)
WORDS = json.dumps({"wealth": {"noun": "wealth", "demographics": ["poor", "rich"], "pairs": [["poor", "rich"]]}})


def neurons() -> str:
    facts = {"model": {"name": "m", "fingerprint": "0" * 16}}
    chosen = NeuronSet([(0, 1), (1, 2)], (2, 3)).with_details({"gender": [(0, 1)]}, facts)
    return text_of(chosen.with_strengths({(0, 1): 0.5, (1, 2): -1.0}))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("model"), wordpiece_tokenizer()
    make_model("bert", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = {}
    load = module.load_tokenizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_tokenizer", lambda name, **_: loaded.setdefault(name, load(name)))
        yield folder


def judged(made: Any, stage: str = "test", **options: Any) -> Any:
    def read(path: Path, model: Path) -> Any:
        data = made(str(model), **options, **{"words" if made is PromptDataModule and options else "path": str(path)})
        data.setup(stage)
        return data

    return read


def one_of(made: Any, write: Any, name: str) -> Any:
    """One file of a folder's, and what reads the folder with that file damaged."""

    def read(path: Path, model: Path) -> Any:
        (write(path.parent / "folder") / name).write_bytes(path.read_bytes())
        data = made(str(model), path=str(path.parent / "folder"))
        data.setup("test")
        return data

    return lambda folder: (write(folder / "whole") / name).read_text(), read


SOURCES = {
    "WinoBias": one_of(WinoBiasDataModule, winobias, "pro_stereotyped_type1.txt.test"),
    "Winogender": one_of(WinogenderDataModule, winogender, "all_sentences.tsv"),
    "women's shares": one_of(WinogenderDataModule, winogender, "occupations-stats.tsv"),
    "clusters": (lambda folder: Path(stereoset(folder / "s", 3)).read_text(), judged(StereoSetDataModule)),
    "pairs": (lambda folder: PAIRS, judged(CrowsPairsDataModule)),
    "pairs of any type": (lambda folder: PAIRS, lambda path, model: read_pairs(path, "any")),
    "professions": (lambda folder: PROFESSIONS, judged(BecProDataModule)),
    "honest": (lambda folder: HONEST, judged(HonestDataModule)),
    "lexicon": (lambda folder: "id\tlemma\tlevel\n1\trude\tconservative\n", lambda path, model: read_lexicon(path)),
    "prompts": (lambda folder: PROMPTS, judged(PromptDataModule, "predict")),
    "words": (lambda folder: WORDS, judged(PromptDataModule, "predict", kinds=["negative"], modifiers=1)),
    "trained prompts": (lambda folder: '{"prompts": [{"text": "is very"}]}', lambda p, m: read_trained_prompts(p, "m")),
    "neurons": (lambda folder: neurons(), lambda path, model: NeuronSet.load(path)),
    "findings": (
        lambda folder: Findings("probe", "m", {}, rows=[Row("untouched", "untouched")]).save(folder, "f").read_text(),
        lambda path, model: Findings.load(path),
    ),
    "text": (lambda folder: LINES, lambda path, model: read_sentences(str(path), "train", "text")),
}
ODD = [None, True, [], {}, "", " ", 0, -1, 3, 10**30, 1e308, float("nan"), float("inf"), "BLANK", "[MASK]", "{slot}",
       "a/b", "x" * 999, [[]], [None], {"a": None}, "\ud800", [["a", "b", 1]], "\u0000", "水"]  # fmt: skip


def places(content: Any, path: tuple = ()) -> list[tuple]:
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def changed(text: str, draw: random.Random) -> str:
    """JSON with a value somewhere replaced, removed or doubled."""
    content = json.loads(text)
    *_, path = [(), draw.choice(places(content))]
    if not path:
        return json.dumps(draw.choice(ODD))
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    how = draw.random()
    if how < 0.2:
        del holder[path[-1]]
    elif how < 0.35 and isinstance(holder, list):
        holder.append(holder[path[-1]])
    elif how < 0.45 and isinstance(holder, dict):
        holder[draw.choice(["", "extra", "id", "noun"])] = draw.choice(ODD)
    else:
        holder[path[-1]] = draw.choice(ODD)
    return json.dumps(content)


def damaged(text: str, draw: random.Random) -> bytes:
    """A file's bytes, a few times damaged."""
    is_json = text.lstrip()[:1] in ("{", "[")
    for _ in range(draw.choice((1, 1, 1, 2, 3)) if is_json and draw.random() < 0.7 else 0):
        text = changed(text, draw) if text.lstrip()[:1] in ("{", "[") else text
    if is_json and draw.random() < 0.7:
        return text.encode("utf-8", "surrogatepass")
    content = text.encode(draw.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp037")), "replace")
    place = draw.randrange(len(content) + 1)
    parts = (b"", b"\0", b"\xff", b'"', b"\r\n", b",", b"[", b"}", b"9" * 5000, b"[" * 3000, b"\x85", b"\xe6", b"\t")
    end = draw.choice((place, place, place + draw.randrange(40), len(content)))
    return content[:place] + draw.choice(parts) + content[end:]


@settings(max_examples=150, **ALIKE)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("source", SOURCES)
def test_damaged_files(tmp_path, model, source, seed):
    make, read = SOURCES[source]
    path = tmp_path / "damaged"
    path.write_bytes(damaged(make(tmp_path), random.Random(seed)))
    try:
        result = read(path, model)
    except InputError:
        return
    assert result is not None
    for batch in getattr(result, "batches", ()):
        assert len(batch.get("examples", batch.get("example"))) > 0
