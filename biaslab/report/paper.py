"""The results table of "The Devil is in the Neurons" (ICLR 2024), to stand beside figures that are measured."""

from typing import NamedTuple


class PaperRow(NamedTuple):
    """A row of the paper's table, in percent, ICAT as it is printed there."""

    ss: float
    lms: float
    icat: float


PAPER: dict[str, dict[str, PaperRow]] = {
    "bert-base-cased": {
        "base": PaperRow(56.93, 87.29, 75.19), "dpce": PaperRow(62.41, 78.48, 58.97),
        "autodebias": PaperRow(53.03, 50.74, 47.62), "union_ig": PaperRow(51.01, 31.47, 30.83),
        "bns_paper": PaperRow(52.78, 86.64, 81.82),
    },
    "roberta-base": {
        "base": PaperRow(62.46, 91.70, 68.85), "dpce": PaperRow(64.09, 92.95, 66.67),
        "autodebias": PaperRow(59.63, 68.52, 55.38), "union_ig": PaperRow(53.82, 30.61, 28.27),
        "bns_paper": PaperRow(57.43, 91.39, 77.81),
    },
    "FairBERTa": {
        "base": PaperRow(58.62, 91.90, 76.06), "union_ig": PaperRow(52.27, 37.36, 35.66),
        "bns_paper": PaperRow(53.44, 91.05, 84.79),
    },
}  # fmt: skip


def paper_rows(model_name: str) -> tuple[str, dict[str, PaperRow]]:
    """Return the paper's model that is nearest to a hub id, a folder or an asset: the same, or else BERT; and its rows.

    >>> name, rows = paper_rows("FacebookAI/roberta-base")
    >>> name, rows["bns_paper"].icat
    ('roberta-base', 77.81)
    >>> paper_rows("minilm-mlm")[0]
    'bert-base-cased'
    """
    name = model_name.rstrip("/").rpartition("/")[2]
    return (name, PAPER[name]) if name in PAPER else ("bert-base-cased", PAPER["bert-base-cased"])
