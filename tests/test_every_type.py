"""Each type of the table on a tiny random model: one test, against code that reruns the whole model."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CAUSAL, MASKED, bpe_tokenizer, wordpiece_tokenizer
from reference import stereoset as reference
from reference.attribution import integrated, target_probabilities
from reference.importance import query_effects
from reference.precision import NoSingle
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from biaslab.attribution.gaps import attribute_gaps
from biaslab.attribution.importance import Asked, first_order_effects, mean_activations
from biaslab.attribution.quadrature import nodes_and_weights
from biaslab.attribution.replay import Inputs, reuses_keys
from biaslab.data.stereoset import StereoSetDataModule, read_clusters
from biaslab.evaluation.scoring import score_clusters
from biaslab.models.architectures import (
    add_biases,
    architecture,
    down_weight,
    ffn_modules,
    ffn_shape,
    has_bias,
    takes_own_mask,
)
from biaslab.models.loading import attention_of
from biaslab.models.table import ARCHITECTURES, REFUSED
from biaslab.neurons.cards import PromptRun, word_changes
from biaslab.neurons.neuron_set import Neuron, NeuronSet
from biaslab.neurons.suppression import recorded, scale_neurons, suppressed

_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
# A line a type: what its config says beside the common sizes. With 4 heads and 4 sequences, no axis may be taken for
# another of the same size.
TYPES: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 16},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "camembert": {},
    "data2vec-text": {},
    "ernie": {},
    "roberta-prelayernorm": {},
    "megatron-bert": {},
    "big_bird": {},
    "roformer": {"embedding_size": 16},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 24, "classifier_dropout_prob": 0.0},
    "nystromformer": {},
    "modernbert": {"local_attention": 4},
    "eurobert": _GROUPED,
    "roc_bert": {},
    "convbert": {"embedding_size": 16},
    "deberta": {**_RELATIVE, "max_relative_positions": 2},
    "deberta-v2": {**_RELATIVE, "position_buckets": 2, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    "qwen3": _GROUPED,
    "gemma": _GROUPED,
    "gemma3_text": {**_GROUPED, "sliding_window": 5, "final_logit_softcapping": 5.0},
    "phi3": {**_GROUPED, "sliding_window": 5},
    "phi": {"num_key_value_heads": 2},
    "olmo": {"num_key_value_heads": 2, "clip_qkv": 0.5},
    "olmo2": _GROUPED,
    "olmo3": {**_GROUPED, "sliding_window": 5},
    "cohere": {"num_key_value_heads": 2, "use_qk_norm": True},
    "cohere2": {"num_key_value_heads": 2, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "granite": {
        "num_key_value_heads": 2,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.7,
    },
    "smollm3": {"num_key_value_heads": 2, "no_rope_layers": [1, 0]},
    "glm": _GROUPED,
    "glm4": _GROUPED,
    "arcee": _GROUPED,
    "exaone4": {**_GROUPED, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "seed_oss": _GROUPED,
    "hunyuan_v1_dense": _GROUPED,
    "apertus": _GROUPED,
    "ministral": {**_GROUPED, "sliding_window": 5},
    "ministral3": _GROUPED,
    "helium": _GROUPED,
    "ernie4_5": _GROUPED,
    "persimmon": {},
    "cwm": {**_GROUPED, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "jais2": _GROUPED,
    "vaultgemma": {**_GROUPED, "sliding_window": 5, "attn_logit_softcapping": 5.0},
    "starcoder2": {"num_key_value_heads": 2, "sliding_window": 5},
    "stablelm": {"num_key_value_heads": 2, "qk_layernorm": True, "use_parallel_residual": True},
    "nemotron": _GROUPED,
    "gpt_bigcode": {"n_inner": 48},
    "biogpt": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "modernbert-decoder": {"local_attention": 10},
    "nanochat": {"num_key_value_heads": 2},
    "ctrl": {"dff": 48},
    "gemma4_text": {
        **_GROUPED,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 8,
        "num_kv_shared_layers": 1,
        "layer_types": ["full_attention", "full_attention"],
    },
    "qwen3_5_text": {
        **_GROUPED,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "bloom": {"apply_residual_connection_post_layernorm": True},
    "falcon": {"new_decoder_architecture": True, "alibi": True},
    "gptj": {"rotary_dim": 4, "n_inner": 48},
    "codegen": {"rotary_dim": 4, "n_inner": 48},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 5},
    "diffllama": _GROUPED,
    "mpt": {},
}
OTHERS = [  # configs of a type that take another way
    ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    ("falcon", {"multi_query": True}),
    ("falcon", {"multi_query": False, "parallel_attn": False, "alibi": True}),
    ("deberta-v2", {**_RELATIVE, "position_buckets": 2, "legacy": False}),
    ("deberta", {**_RELATIVE, "max_relative_positions": 2, "legacy": False}),
    (
        "llama",
        {**_GROUPED, "mlp_bias": True, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    ),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("gemma4_text", {**_GROUPED, "global_head_dim": 8, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}),
    ("stablelm", {"num_key_value_heads": 4}),
    ("gemma3_text", {**_GROUPED, "layer_types": ["full_attention", "full_attention"], "query_pre_attn_scalar": 4}),
]
CASES = [
    ("The doctor is very BLANK.", "rich", "kind", "water"),
    ("The boy was BLANK and very kind.", "rude", "gentle", "city"),
]


def make(model_type: str, extra: dict[str, Any], vocab_size: int) -> PreTrainedModel:
    """A random model of two layers, in float64."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 48, "initializer_range": 0.3, "max_position_embeddings": 64}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, vocab_size=vocab_size, **{**sizes, **special, **extra})
    auto = AutoModelForMaskedLM if ARCHITECTURES[model_type].masked else AutoModelForCausalLM
    return auto.from_config(config, **attention_of(config)).double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def stereosets(tmp_path_factory) -> dict[bool, Any]:
    """By whether it is for masked models: the tokenizer, and StereoSet's data in one batch."""
    from evaluation.test_scoring import write

    found = {}
    for masked, tokenizer in ((True, wordpiece_tokenizer()), (False, bpe_tokenizer(masked=False))):
        folder = tmp_path_factory.mktemp("masked" if masked else "causal")
        tokenizer.save_pretrained(folder)
        path = write(folder / "mine.json", [(context.replace("BLANK", "{}"), *words) for context, *words in CASES])
        data = StereoSetDataModule(str(folder), path=path)
        data.setup("test")
        found[masked] = tokenizer, data, read_clusters(path)
    return found


def test_every_type_of_the_table_is_tested():
    assert {*TYPES, *MASKED, *CAUSAL} == set(ARCHITECTURES)
    assert not set(ARCHITECTURES) & set(REFUSED)


@pytest.mark.parametrize(
    ("model_type", "extra"),
    [*TYPES.items(), *OTHERS],
    ids=[*TYPES, *(f"{name}-{n}" for n, (name, _) in enumerate(OTHERS))],
)
def test_whatever_is_done_equals_code_that_reruns_the_model(model_type, extra, stereosets, tmp_path, caplog):
    tokenizer, data, clusters = stereosets[ARCHITECTURES[model_type].masked]
    model = make(model_type, extra, len(tokenizer))
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 100, (4, 6), generator=generator)
    with NoSingle():
        gaps_equal_reruns(model, ids, torch.randint(5, 100, (4, 2), generator=generator))
        effects_and_means_equal_loops(model, ids)
        words_equal_differences(model, ids[0])
    assert not [record for record in caplog.records if record.name == "biaslab"]  # the engine's fast ways hold
    scores_equal_one_sentence_at_a_time(model, tokenizer, data, clusters)
    for name in {"sliding_window", "local_attention", "window_size"} & set(extra):  # one that holds all sentences
        wide = make(model_type, {**extra, name: 64}, len(tokenizer))
        scores_equal_one_sentence_at_a_time(wide, tokenizer, data, clusters)
        assert architecture(model).masked or takes_own_mask(wide, 24) is architecture(model).own_mask
    suppression_equals_zeroed_columns(model, ids, tmp_path)


def gaps_equal_reruns(model, every, targets):
    """At inner slots, and at last tokens beyond and within a sliding window, where a causal model's keys are reused."""
    nodes, weights = nodes_and_weights("gauss_legendre", 2)
    pair, entry = torch.tensor([[0, 1]]), architecture(model)
    inner, long = (every, torch.tensor([1, 4, 2, 3])), (every, torch.full((4,), 5))
    short = every[:, :4], torch.full((4,), 3)
    reused = reuses_keys(model, Inputs(*short, targets).rows(slice(None)))
    assert reused is (entry.keys and not entry.masked)
    for ids, position in (inner, long, short):
        found = attribute_gaps(model, ids, position, targets, pair, steps=2, gap="signed").scores[:, 0]
        for row, layer in ((0, 0), (1, 1), (3, 0)):
            slot = int(position[row])

            def gap(scale, row=row, layer=layer, slot=slot, ids=ids):
                return torch.sub(*target_probabilities(model, ids[row], slot, targets[row], layer, scale))

            expected = integrated(model, ids[row], slot, layer, nodes, weights, gap)
            torch.testing.assert_close(found[row, layer], expected, atol=1e-8, rtol=0)


def effects_and_means_equal_loops(model, ids):
    asked = Asked(ids, torch.tensor([0, 2, 2]), torch.tensor([3, 1, 4]), torch.tensor([7, 50, 9]))
    effects, logs = first_order_effects(model, asked, torch.tensor([[1.0, -1.0, 0.5]]))
    each = [query_effects(model, ids[row], place, target) for row, place, target in ((0, 3, 7), (2, 1, 50), (2, 4, 9))]
    torch.testing.assert_close(logs, torch.stack([log for _, log in each]), atol=1e-8, rtol=0)
    torch.testing.assert_close(effects[0, 0], each[0][0], atol=1e-8, rtol=0)
    torch.testing.assert_close(effects[0, 2], 0.5 * each[2][0] - each[1][0], atol=1e-8, rtol=0)
    seen = []
    with recorded(model) as activations, torch.no_grad():
        model(input_ids=ids)
        together = [activations[layer] for layer in (0, 1)]
        assert [part.shape for part in together] == [(4, 6, ffn_shape(model)[1])] * 2
        for row in range(4):
            model(input_ids=ids[row : row + 1])
            seen.append(torch.stack([activations[layer][0] for layer in (0, 1)], 1))
    torch.testing.assert_close(torch.stack(together, 2), torch.stack(seen), atol=1e-8, rtol=0)
    means = mean_activations(model, ids.split(2))
    torch.testing.assert_close(means, torch.cat(seen).mean(0), atol=1e-8, rtol=0)


def words_equal_differences(model, ids):
    """What a neuron promotes, against a small step of its activation at the slot."""
    (found,) = word_changes(model, [Neuron(0, 5)], [[PromptRun(None, ids, 3, torch.empty(0))]])
    words, step = torch.arange(len(found)), 1e-5 * torch.eye(ffn_shape(model)[1])[5].double()
    high, low = (target_probabilities(model, ids, 3, words, 0, lambda w, s=sign: w + s * step) for sign in (1, -1))
    likely = found.abs() > 0
    assert likely.sum() > 10
    expected = (high.log() - low.log()) / 2e-5
    torch.testing.assert_close(found[likely].double(), expected[likely], atol=1e-6, rtol=1e-4)


def scores_equal_one_sentence_at_a_time(model, tokenizer, data, clusters):
    (batch,) = data.test_dataloader()
    masked = architecture(model).masked
    expected = [
        [
            reference.masked_score(model, tokenizer, cluster.context, sentence, False)
            if masked
            else reference.causal_score(model, tokenizer, sentence)
            for sentence in cluster.sentences
        ]
        for cluster in clusters
    ]
    found = score_clusters(model, batch)[batch["examples"].argsort()]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-7, rtol=1e-5)


def suppression_equals_zeroed_columns(model, ids, folder):
    """At all positions, at one each, and written as a checkpoint, bit for bit; means go into biases to rounding."""

    def logits(model):
        with torch.no_grad():
            return model(input_ids=ids).logits

    neurons = NeuronSet([(0, 3), (1, 5), (1, 6), (1, 40)], ffn_shape(model))
    untouched = logits(model)
    position = torch.tensor([1, 4, 2, 3])
    with suppressed(model, [(1, 5)], positions=position):
        at_one = logits(model)
    if not architecture(model).masked:
        with suppressed(model, [(1, 5)], positions=torch.full((4,), 5)):
            at_last = logits(model)
        with suppressed(model, [(1, 5)], positions="slot"):
            assert torch.equal(logits(model), at_last)
    for row, place in enumerate(position.tolist()):

        def zeroed(values):
            return values.index_fill(0, torch.tensor([5]), 0)

        every = target_probabilities(model, ids[row], place, torch.arange(untouched.shape[2]), 1, zeroed)
        torch.testing.assert_close(at_one[row, place].softmax(0), every, atol=1e-8, rtol=0)
    values = np.random.default_rng(0).normal(size=ffn_shape(model)).astype(np.float32)
    with suppressed(model, neurons):
        hooked = logits(model)
    model.save_pretrained(folder / "model")
    scale_neurons(model, neurons, 0.0)
    assert all(float(down_weight(ffn_modules(model)[layer])[:, index].abs().sum()) == 0 for layer, index in neurons)
    assert torch.equal(logits(model), hooked)
    assert not torch.equal(hooked, untouched)
    model.save_pretrained(folder / "baked")
    load = partial(type(model).from_pretrained, dtype=torch.float64)
    again = load(folder / "model")
    with suppressed(again, neurons):
        assert torch.equal(logits(load(folder / "baked")), logits(again))
    if has_bias(again):
        with suppressed(again, neurons.with_values(values)):
            replaced = logits(again)
        add_biases(again)
        scale_neurons(again, neurons.with_values(values), 0.0)
        again.save_pretrained(folder / "replaced")
        torch.testing.assert_close(logits(load(folder / "replaced")), replaced, atol=1e-6, rtol=0)
