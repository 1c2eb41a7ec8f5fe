"""Shared by the commands that evaluate a model: its name, and measures with their data loaded."""

from pathlib import Path
from typing import Any, TypeVar

from biaslab.data.corpus import SPLITS, TEXTS, read_sentences
from biaslab.data.knowledge import KnowledgeDataModule
from biaslab.data.minimal_pairs import MinimalPairsDataModule
from biaslab.data.module import EvaluationData
from biaslab.data.panda_pairs import PandaPairsDataModule
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.errors import InputError, require_name_or_file, require_positive
from biaslab.evaluation.knowledge import Knowledge
from biaslab.evaluation.measures import Perplexity, StereoSet
from biaslab.evaluation.pairs import MinimalPairs, PandaPairs
from biaslab.models.tokens import Bos
from biaslab.neurons.neuron_set import NeuronSet

Data = TypeVar("Data", bound=EvaluationData)
SEEDS = 2  # random controls that are evaluated on additional benchmarks


def model_of(neurons: NeuronSet, path: str) -> str:
    """Return the name of the model that a file's neurons were found in, or the path of its folder.

    Raises:
        InputError: if the file names no model, or the folder no longer exists.
    """
    model = neurons.provenance.get("model", {})
    if not (name := model.get("name")):
        raise InputError(
            f"`model` is expected because {path} does not name the model of its neurons, but got none. Give its name."
        )
    folder = Path(model.get("folder", ""))
    here = Path(name).expanduser()
    if "folder" not in model or (here.is_dir() and here.resolve() == folder):
        return str(name)
    if folder.is_dir():
        return str(folder)
    if here.is_dir():  # both were moved; the fingerprint check tells whether it is the same model
        return str(name)
    raise InputError(
        f"`model` is expected because {path} names the folder {folder}, which no longer exists. Give the new path."
    )


def ready(data: Data) -> Data:
    """Return a data module after loading its test data."""
    data.prepare_data()
    data.setup("test")
    return data


def stereoset(model_name: str, path: str | None, trust_remote_code: bool, **settings: Any) -> StereoSet:
    """Return the StereoSet measure on its dev split or a file; ``settings`` go to the data module."""
    return StereoSet(ready(StereoSetDataModule(model_name, path=path, trust_remote_code=trust_remote_code, **settings)))


def perplexity(
    text: str, sentences: int, split: str = "evaluation", seeds: int | None = None, bos: Bos = "tokenizer"
) -> Perplexity:
    """Return the perplexity measure on a text's first sentences; InputError if there are none."""
    require_positive(sentences=sentences)
    require_name_or_file("text", text, TEXTS)
    ordinary = read_sentences(text, split, "text")[:sentences]
    if not ordinary:
        raise InputError(
            f"`text` is expected to have {split} sentences but {text} has none: one line in "
            f"{100 // len(SPLITS[split])} is used, if it has four words or more. Use a longer text."
        )
    return Perplexity(ordinary, seeds, bos)


def minimal_pairs(model_name: str, trust_remote_code: bool) -> list[MinimalPairs]:
    """Return the measure on held-out minimal pairs; empty if the tokenizer supports none."""
    data = ready(MinimalPairsDataModule(model_name, trust_remote_code=trust_remote_code))
    return [MinimalPairs(data)] if data.pairs else []


def panda_pairs(model_name: str, trust_remote_code: bool, limit: int | None = None) -> list[PandaPairs]:
    """Return the measure on held-out PANDA sentences and their rewrites; empty if the tokenizer supports none."""
    data = ready(PandaPairsDataModule(model_name, limit, trust_remote_code=trust_remote_code))
    return [PandaPairs(data)] if data.pairs else []


def knowledge(model_name: str, trust_remote_code: bool) -> list[Knowledge]:
    """Return the knowledge measure (a word follows from the sentence); empty if the tokenizer supports none."""
    data = ready(KnowledgeDataModule(model_name, trust_remote_code=trust_remote_code))
    return [Knowledge(data)] if data.facts else []
