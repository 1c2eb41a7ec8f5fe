"""What the data modules share: a model's tokenizer, what they fetch, and batches that are made beforehand."""

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
    """Texts as the tokens of a model. The arguments of a class become its hyper-parameters.

    All but one: whether a tokenizer may bring its own code changes nothing in the result. An argument that is out of
    range raises an ``InputError``, and so does ``setup`` where a file, a tokenizer or a text lacks what is needed.
    """

    def __init__(self, trust_remote_code: bool = False) -> None:
        super().__init__()
        self._trust_remote_code = trust_remote_code
        self.save_hyperparameters(ignore=["trust_remote_code"])  # those of the subclass, from its frame
        require_ranges(self.hparams)

    def sources(self) -> Sequence[str]:
        """Return what the texts come from: names of data sets, or files."""
        return list(self.hparams.get("sources", ()))

    def prepare_data(self) -> None:
        """Fetch the sources that have a name."""
        for source in self.sources():
            if source in assets.DATA:
                assets.fetch(source)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer of the model; its ``model_max_length`` is the number of the model's positions."""
        name = self.hparams["model_name"]
        return with_positions(load_tokenizer(name, trust_remote_code=self._trust_remote_code), name)


class TrainingData(TokenizedData):
    """Batches to train and to validate on."""

    train_batches: Batches
    validation_batches: Batches

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, in a new order each epoch."""
        return loader(self.train_batches, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation batches."""
        return loader(self.validation_batches)


class EvaluationData(TokenizedData):
    """Batches of an asset, or of a file of its form, or of what the package holds, that a model is judged on."""

    asset: str | None = None  # none where the examples are in the package
    batches: list[dict[str, Any]]

    def sources(self) -> Sequence[str]:
        """Return the asset, if there is one and no path is given."""
        return [] if self.asset is None or self.hparams.get("path") is not None else [self.asset]

    def setup(self, stage: str) -> None:
        """Read and tokenize the examples; once, however many trainers ask."""
        if not hasattr(self, "batches"):
            self.batches = self.read()

    def read(self) -> list[dict[str, Any]]:
        """Return the batches."""
        raise NotImplementedError

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the batches."""
        return loader(self.batches)


def problem(record: Mapping[str, Any], texts: Sequence[str], choices: Mapping[str, Sequence[str]]) -> str:
    """Say what is wrong with a record of a file: a text that is missing or not one of a choice's; "" if nothing is.

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
    """Return a loader of batches that are whole already."""
    return DataLoader(batches, batch_size=None, **options)  # type: ignore[arg-type]  # a list serves as a data set
