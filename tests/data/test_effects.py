"""What effects at all positions are asked of: the sums that the batches make up, against plain loops."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, make_model, stereoset, wordpiece_tokenizer
from reference.importance import query_effects

from biaslab.attribution.importance import Asked, first_order_effects
from biaslab.data.effects import make_batches, of_prompts, other_batches, quantities_of
from biaslab.data.prompts import PromptDataModule
from biaslab.data.queries import masked_queries
from biaslab.data.stereoset import candidate_word, half_of, read_clusters
from biaslab.errors import InputError
from biaslab.evaluation.scoring import target_log_probabilities
from biaslab.metrics.effects import NeuronEffects
from biaslab.tasks.effects import effects_of

KINDS = {"masked": wordpiece_tokenizer(), "causal": bpe_tokenizer(masked=False)}
TYPES = {"masked": "bert", "causal": "gpt2"}


@pytest.fixture
def clusters(tmp_path, monkeypatch):
    """A cache whose test split has 24 clusters, some terms with more of them than others, some words of two tokens."""
    (tmp_path / "stereoset").mkdir()
    for split in ("dev", "test"):
        path = Path(stereoset(tmp_path / "stereoset" / f"{split}.json", clusters=24))
        content = json.loads(path.read_text().replace("cooking", "zing"))
        for record in content["data"]["intrasentence"][:7]:
            record["target"] += "s"
        path.write_text(json.dumps(content))
    monkeypatch.setenv("BIASLAB_CACHE", str(tmp_path))
    return read_clusters("test")


@pytest.fixture
def text(tmp_path) -> str:
    words = ("doctor", "driver", "friend", "girl", "boy", "man", "woman", "person")
    lines = [f"the {a} loves the {b} and hates the {c} ." for a in words for b in words for c in words]
    (tmp_path / "text.txt").write_text("\n".join([*lines, "water"]))
    return str(tmp_path / "text.txt")


def collected(model, batches, quantities) -> NeuronEffects:
    metric = NeuronEffects(quantities, (3, 48))
    for batch in batches:
        metric.update(effects_of(model, batch).flatten(0, 1), batch["quantity"].flatten(), batch.get("tokens", 0))
    return metric


def candidate_effects(model, tokenizer, cluster, sentence) -> torch.Tensor:
    """Of the mean log-probability of the candidate's pieces, or of a causal model's tokens but the first."""
    if tokenizer.mask_token is None:
        ids = torch.tensor(tokenizer(sentence)["input_ids"])
        asked = [(ids, place - 1, ids[place]) for place in range(1, len(ids))]
    else:
        (queries,) = masked_queries(tokenizer, [(cluster.context, candidate_word(cluster.context, sentence))])
        asked = [(torch.tensor(query.input_ids), query.position, query.target_id) for query in queries]
    return torch.stack([query_effects(model, *one)[0] for one in asked]).mean(0)


@pytest.mark.parametrize("kind", KINDS)
def test_bias_and_guard_are_means_over_terms(clusters, kind):
    """Of the clusters of a term the mean, of the terms of a domain the mean; words of several tokens count."""
    tokenizer = KINDS[kind]
    model = make_model(TYPES[kind], len(tokenizer)).double()
    batches = make_batches(tokenizer, ["stereoset"], 100, 64)
    found = collected(model, batches, quantities_of(["stereoset"]))
    for domain in ("gender", "race"):
        terms: dict[str, list] = {}
        for cluster in clusters:
            if cluster.domain == domain:
                effects = [candidate_effects(model, tokenizer, cluster, sentence) for sentence in cluster.sentences]
                stereotype, anti, unrelated = effects
                both = torch.stack([stereotype - anti, (stereotype + anti) / 2 - unrelated])
                terms.setdefault(cluster.target, []).append(both)
        expected = torch.stack([torch.stack(own).mean(0) for own in terms.values()]).mean(0)
        for name, wanted in zip(("bias", "guard"), expected, strict=True):
            assert wanted.abs().max() > 1e-3
            torch.testing.assert_close(found.effects(f"{domain}/{name}"), wanted, atol=1e-6, rtol=1e-6)
    if kind == "masked":
        assert max(Counter(batch["row"].tolist()).most_common(1)[0][1] for batch in batches) > 1  # one input, two words


def test_halves_and_limits(clusters):
    tokenizer = KINDS["masked"]
    every, few = (make_batches(tokenizer, ["stereoset"], limit, 64) for limit in (100, 5))
    half = make_batches(tokenizer, ["stereoset"], 100, 64, terms="find")

    def clusters_of(batches) -> float:
        """Each domain's weights of the stereotypes add up to 1."""
        return sum(float(batch["weights"][0].clamp_min(0).sum()) for batch in batches)

    domains = {cluster.domain for cluster in clusters}
    assert clusters_of(every) == pytest.approx(len(domains))
    assert clusters_of(few) == pytest.approx(len(domains))
    kept = {cluster.domain for cluster in clusters if half_of(cluster.target) == "find"}
    assert clusters_of(half) == pytest.approx(len(kept))
    assert sum(len(b["input_ids"]) for b in few) < sum(len(b["input_ids"]) for b in every)
    assert max(batch["input_ids"].numel() for batch in every) <= 64


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_asked_for_tokens_in_their_place(text, kind):
    tokenizer = KINDS[kind]
    batches = make_batches(tokenizer, [text], 20, 100)
    assert sum(len(batch["input_ids"]) for batch in batches) in range(2, 21)  # the contrast split's
    for batch in batches:
        assert not any(torch.is_tensor(value) and value.dtype == torch.float64 for value in batch.values())
        assert set(batch["weights"].flatten().tolist()) <= {-1.0, 1.0}
        assert batch["tokens"] == len(batch["row"]) == batch["weights"].shape[1]
        row, position = batch["row"], batch["position"]
        if kind == "causal":
            assert torch.equal(batch["target_ids"], batch["input_ids"][row, position + 1])
            assert len(row) == batch["input_ids"][:, 1:].numel()
        else:
            assert (batch["input_ids"][row, position] == tokenizer.mask_token_id).all()
            assert tokenizer.mask_token_id not in batch["target_ids"]
            assert int((batch["input_ids"] == tokenizer.mask_token_id).sum()) == len(row)
    again = make_batches(tokenizer, [text], 20, 100)
    assert all(torch.equal(a["weights"], b["weights"]) for a, b in zip(batches, again, strict=True))


def test_text_without_sentences_is_refused(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("too short to be used\n" * 3)
    with pytest.raises(InputError, match=r"`contrast` .* sentences of at least 5 words, but '.*short.txt' has none"):
        make_batches(KINDS["masked"], [str(path)], 10, 100)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_ask_for_the_mean_log_odds_gap(tmp_path, kind):
    """The derivative of the mean over pairs of |log P(d1) - log P(d2)|, words of several tokens too."""
    tokenizer = KINDS[kind]
    model = make_model(TYPES[kind], len(tokenizer)).double()
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    pairs = {"age": [("young", "old"), ("old", "olds")]}
    data = PromptDataModule(str(tmp_path), ["age"], pairs, kinds=["negative"], modifiers=1, tokens_per_batch=64)
    data.setup("predict")
    batch = data.batches[0]
    with torch.no_grad():
        logs = target_log_probabilities(model, batch)
    parts = list(of_prompts(batch, logs, share=0.25, quantity=0))
    assert len(parts) == 1 + len(batch["longer"])
    assert len(parts) > 1
    total = torch.zeros(3, 48, dtype=torch.float64)
    sums = torch.zeros((), dtype=torch.float64)
    for part in parts:
        effects, found = first_order_effects(model, Asked(*(part[n] for n in Asked._fields)), part["weights"])
        total += effects[0].sum(0)
        sums += (part["weights"][0] * found).sum()
    ends = batch["pairs"]
    gap = (logs[:, ends[:, 0]] - logs[:, ends[:, 1]]).abs().mean(1).sum() * 0.25
    torch.testing.assert_close(sums, gap, rtol=1e-5, atol=1e-6)
    assert total.abs().max() > 0


def test_names():
    names = quantities_of(["stereoset", "bold", "bug"])
    assert names == list(dict.fromkeys(names))
    assert names[-1] == "text"
    assert quantities_of(["stereoset"]) == names[:-1]
    every = quantities_of(["panda-pairs", "knowledge", "stereoset", "pairs", "bold"])
    assert every[: len(names)] == names  # what the other sources have keeps its number
    assert every == list(dict.fromkeys(every))
    assert {"age/pairs", "disability/pairs", "panda", "age/known", "known/information"} < set(every)


@pytest.mark.parametrize("causal", [False, True])
def test_costs_are_measured_on_other_sentences(tmp_path, causal):
    """Of a masked model each sentence comes three times, with other tokens hidden; none is one to find neurons with."""
    tokenizer = bpe_tokenizer(masked=False) if causal else wordpiece_tokenizer()
    lines = [f"the {a} loves the {b} and hates the {c} ." for a in "abcdefgh" for b in "abcdefgh" for c in "abcdefgh"]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    source = str(tmp_path / "text.txt")

    def whole(batches):
        """The sentences without masks, and how many tokens are asked for."""
        found = []
        for batch in batches:
            ids = batch["input_ids"].clone()
            if not causal:
                ids[batch["row"], batch["position"]] = batch["target_ids"]
            found += map(tuple, ids.tolist())
        return found

    others = whole(other_batches(tokenizer, [source], 128))
    used = whole(make_batches(tokenizer, [source], 300, 128))
    counts = Counter(others)
    assert set(counts.values()) == {1 if causal else 3}
    assert len(counts) == 100
    assert not counts.keys() & set(used)
