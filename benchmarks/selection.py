"""Which neurons to suppress: sources, guards, counts and factors, on half of StereoSet's test split.

Settings are chosen here, never on dev. One attribution pass serves all rows. About seven minutes on two cores:

    python benchmarks/selection.py
"""

from __future__ import annotations

import torch
from jsonargparse import auto_cli
from pytorch_lightning import Trainer
from torch import Tensor

from biaslab.cli import quiet
from biaslab.data.corpus import read_sentences
from biaslab.data.prompts import PromptDataModule
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.debias import DIMENSIONS, KINDS
from biaslab.hooks import suppressed
from biaslab.metrics.selection import guarded, ranked
from biaslab.metrics.stereoset import idealized_cat, language_modeling_score, stereotype_score
from biaslab.neurons import NeuronSet, random_like
from biaslab.scoring import score_clusters
from biaslab.tasks import Attribution
from biaslab.verification import negative_log_likelihoods, perplexity

# source, guard, λ, neurons, factor
ROWS = [
    ("both", "none", 0.0, 184, 0.0),
    ("both", "stereoset", 1.0, 184, 0.0),
    ("both", "stereoset", 2.0, 184, 0.0),
    ("both", "stereoset", 2.0, 100, 0.0),
    ("both", "stereoset", 2.0, 300, 0.0),
    ("both", "stereoset", 2.0, 184, 0.5),
    ("both", "text", 2.0, 184, 0.0),
    ("prompts", "stereoset", 1.0, 184, 0.0),
    ("contrast", "stereoset", 2.0, 184, 0.0),
]


def scores(contrast: str, modifiers: int, limit: int) -> tuple[Attribution, Tensor, Tensor]:
    """Attribute, and return the task, b(n) of the prompts, and the contrast set's mean scores a pair."""
    task = Attribution(steps=4, selection="guarded", source="prompts")
    data = PromptDataModule(
        dimensions=DIMENSIONS, kinds=KINDS, modifiers=modifiers, contrast=contrast, contrast_limit=limit
    )
    options = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "inference_mode": False}
    Trainer(accelerator="auto", devices=1, **options).predict(task, data, return_predictions=False)
    return task, task.prompts.mean_scores(), task.contrast.pair_scores()


def main(modifiers: int = 2, contrast_limit: int = 300, sentences: int = 50) -> None:
    """Print a row a setting.

    Args:
        modifiers: how many of each kind.
        contrast_limit: at most so many sentences of each contrast set.
        sentences: how many sentences the pseudo-perplexity is measured on (of the validation part).
    """
    quiet()
    task, prompts, stereoset = scores("stereoset", modifiers, contrast_limit)
    _, _, text = scores("bold", 1, contrast_limit)
    bias = {"prompts": prompts, "contrast": stereoset[2]}
    bias = {name: score / score.max() for name, score in bias.items()}
    bias["both"] = bias["prompts"] + bias["contrast"]
    guards = {"stereoset": stereoset[:2].mean(0), "text": text[0]}
    data = StereoSetDataModule(split="test")
    data.prepare_data()
    data.setup("test")
    batches = data.batches[::2]
    terms = torch.cat([batch["terms"] for batch in batches])
    ordinary = read_sentences("bold", "validation")[:sentences]

    def judge(name: str, neurons: NeuronSet, factor: float = 0.0) -> None:
        with suppressed(task.model, neurons, factor):
            scored = torch.cat([score_clusters(task.model, batch) for batch in batches])
            text_perplexity = perplexity(negative_log_likelihoods(task.model, task.tokenizer, ordinary))
        figures = [float(f(scored, terms)) for f in (stereotype_score, language_modeling_score, idealized_cat)]
        print(
            f"| {name} | {len(neurons)} | " + " | ".join(f"{x:.1f}" for x in [*figures, text_perplexity]) + " |",
            flush=True,
        )

    print("| source, guard, λ, factor | neurons | SS | LMS | ICAT | pseudo-perplexity |\n|---|---|---|---|---|---|")
    judge("untouched", NeuronSet([]))
    for source, guard, weight, count, factor in ROWS:
        chosen = guarded(bias[source], guards[guard], count, weight) if guard in guards else ranked(bias[source], count)
        judge(f"{source}, {guard}, {weight:g}, {factor:g}", chosen, factor)
    judge("random, same layers", random_like(guarded(bias["both"], guards["stereoset"], 184, 2.0), seed=0))


if __name__ == "__main__":
    auto_cli(main)
