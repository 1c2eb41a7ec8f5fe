"""Base classes of the data modules: tokenizer, downloads, and precomputed batches."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from biaslab.errors import require_ranges
from biaslab.models import assets
from biaslab.models.loading import load_tokenizer
from biaslab.models.positions import with_positions

Batches = Sequence[Any] | Dataset[Any]


class TokenizedData(LightningDataModule):
    """Base class for texts tokenized for a model. The arguments of a subclass become its hyper-parameters.

    The exception is ``trust_remote_code``, which does not affect the result. Arguments out of range raise an
    ``InputError``; so does ``setup`` if a file, tokenizer or text is unsuitable.
    """

    def __init__(self, trust_remote_code: bool = False) -> None:
        super().__init__()
        self._trust_remote_code = trust_remote_code
        self.save_hyperparameters(ignore=["trust_remote_code"])  # the subclass's arguments, from its frame
        require_ranges(self.hparams)

    def sources(self) -> Sequence[str]:
        """Return the sources of the texts: names of data sets, or files."""
        return list(self.hparams.get("sources", ()))

    def prepare_data(self) -> None:
        """Download the sources that are named data sets."""
        for source in self.sources():
            if source in assets.DATA:
                assets.fetch(source)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the model's tokenizer; its ``model_max_length`` is the model's number of positions."""
        name = self.hparams["model_name"]
        return with_positions(load_tokenizer(name, trust_remote_code=self._trust_remote_code), name)


class TrainingData(TokenizedData):
    """Base class for training and validation batches."""

    train_batches: Batches
    validation_batches: Batches

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, in a new order each epoch."""
        return loader(self.train_batches, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation batches."""
        return loader(self.validation_batches)


class EvaluationData(TokenizedData):
    """Base class for evaluation batches, from an asset, a file in its format, or data in the package."""

    asset: str | None = None  # None if the examples are in the package
    batches: list[dict[str, Any]]

    def sources(self) -> Sequence[str]:
        """Return the asset as a list; empty without an asset or if a path is given."""
        return [] if self.asset is None or self.hparams.get("path") is not None else [self.asset]

    def setup(self, stage: str) -> None:
        """Read and tokenize the examples; only once, even with several trainers."""
        if not hasattr(self, "batches"):
            self.batches = self.read()

    def read(self) -> list[dict[str, Any]]:
        """Return the batches."""
        raise NotImplementedError

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the batches."""
        return loader(self.batches)


def problem(record: Mapping[str, Any], texts: Sequence[str], choices: Mapping[str, Sequence[str]]) -> str:
    """Return what is wrong with a record: a text that is missing or not a valid choice; "" if it is valid.

    >>> problem({"id": "c1", "domain": "age"}, ["id", "domain"], {"domain": ["gender", "race"]})
    "has the domain 'age', not one of gender, race"
    """
    for key in texts:
        if not isinstance(record.get(key), str) or not record[key].strip():
            return f"lacks a text under {key!r}"
    for key, known in choices.items():
        if record[key] not in known:
            return f"has the {key} {record[key]!r}, not one of {', '.join(known)}"
    return ""


def loader(batches: Batches, **options: Any) -> DataLoader[Any]:
    """Return a loader of precomputed batches."""
    return DataLoader(batches, batch_size=None, **options)  # type: ignore[arg-type]  # a list serves as a data set
