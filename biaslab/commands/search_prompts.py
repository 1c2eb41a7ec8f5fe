"""The search for biased prompts, which Auto-Debias is trained with."""

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
    """Find prompts after which a masked model answers differently for the two words of a pair (Auto-Debias, stage 1).

    The result is a JSON file, which can be edited, for the training: biaslab fit -c configs/autodebias.yaml. A search
    that is killed goes on with the same command. With the defaults minilm-mlm takes some 20 minutes on two cores, with
    a vocabulary of 100, a beam of 10 and a depth of 2 about one. The paper's scale is 5,000, 100 and 5: for a GPU.

    Args:
        model: an asset's name, a folder or a hub id; of a masked language model.
        pairs: "gender" or "race".
        vocabulary: prompts are made from so many of the most frequent words.
        beam: how many prompts of each length are kept, and extended.
        depth: words of the longest prompts.
        divergence: how answers are compared: "jensen_shannon", or the authors' released code's "reversed".
        sources: what words are counted in: "bold", "bug", "panda" or text files.
        output: the file for the prompts.
        token_budget: at most so many tokens travel together.
        trust_remote_code: let a checkpoint bring its own Python code.
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
        f"{len(prompts)} prompts written to {path}. Train with them: biaslab fit -c configs/autodebias.yaml "
        f"--model.model_name {model} --data.prompts {path}"
    )
