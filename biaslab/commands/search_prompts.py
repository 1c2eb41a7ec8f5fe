"""Search biased prompts for training Auto-Debias."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from biaslab.errors import require_one_of, require_ranges


def search_prompts(
    model: str = "minilm-mlm",
    pairs: Literal["gender", "race"] = "gender",
    vocabulary: int = 500,
    beam: int = 20,
    depth: int = 3,
    divergence: Literal["jensen_shannon", "reversed"] = "jensen_shannon",
    sources: Sequence[str] = ("bold", "bug"),
    output: str = "runs/prompts.json",
    token_budget: int = 2048,
    trust_remote_code: bool = False,
) -> None:
    """Find prompts for which a masked model answers differently for the two words of a pair (Auto-Debias, stage 1).

    The result is an editable JSON file for training: biaslab fit -c configs/autodebias.yaml. Run the same command to
    resume an interrupted search. With the defaults, minilm-mlm takes about 20 minutes on two cores; with a vocabulary
    of 100, a beam of 10 and a depth of 2, about one minute. The paper uses 5,000, 100 and 5, which needs a GPU.

    Args:
        model: a masked language model: an asset name, a local folder or a hub id.
        pairs: word pairs to compare: "gender" or "race".
        vocabulary: number of most frequent words that prompts are made from.
        beam: number of prompts of each length that are kept and extended.
        depth: number of words in the longest prompts.
        divergence: how answers are compared: "jensen_shannon", or "reversed" as in the authors' released code.
        sources: texts to count words in: "bold", "bug", "panda" or text files.
        output: file for the prompts.
        token_budget: maximum number of tokens per batch.
        trust_remote_code: allow a checkpoint to run its own Python code.
    """
    settings = {
        "pairs": pairs, "vocabulary": vocabulary, "beam": beam, "depth": depth, "divergence": divergence,
        "token_budget": token_budget,
    }  # fmt: skip
    require_ranges(settings)
    require_one_of("pairs", pairs, ["gender", "race"])
    require_one_of("divergence", divergence, ["jensen_shannon", "reversed"])
    from biaslab.tasks.baselines.prompt_search import search

    path = Path(output)
    prompts = search(model, sources, path, trust_remote_code, settings)
    if prompts is None:
        print(f"{path} already holds this search's result. Delete it to search again.")
        return
    print("The prompts with the largest divergence (nats):")
    for prompt in sorted(prompts, key=lambda prompt: -prompt["score"])[:5]:
        print(f"  {prompt['score']:.4f}  w {prompt['text']} [MASK].")
    print(
        f"{len(prompts)} prompts written to {path}. To train with them, run: biaslab fit -c configs/autodebias.yaml "
        f"--model.model_name {model} --data.prompts {path}"
    )
