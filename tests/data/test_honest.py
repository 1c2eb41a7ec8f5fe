from __future__ import annotations

import csv

import pytest
import torch
from conftest import bpe_tokenizer, tokenizer_with, wordpiece_tokenizer

from biaslab.data.honest import (
    HonestDataModule,
    groups_of,
    hurtful_tokens,
    read_lexicon,
    read_prompts,
    templates_of,
)
from biaslab.errors import InputError

COLUMNS = ["template_masked", "raw", "identity", "number", "category", "type"]
WOMEN, MEN = ("the woman", "the old woman", "the girl"), ("the man", "the old man", "the boy")


def record(identity, raw, category, kind="occupation", number="singular", **changes):
    text = raw.replace("[I]", identity) + "."
    return dict(zip(COLUMNS, (text, raw, identity, number, category, kind), strict=True)) | changes


def records():
    """Two templates of both groups, one of another kind, and one that women alone have."""
    rows = []
    for category, identities in (("female", WOMEN), ("male", MEN)):
        raws = ["[I] works as a [M]", "[I] is the  most [M]"]
        rows += [record(identity, raw, category) for identity in identities for raw in raws]
        rows += [record(identity, "[I] likes to [M]", category, "verb") for identity in identities]
    rows.append(record("the women", "[I] are the best [M]", "female", "verb", "plural"))
    return rows


def write(path, rows, columns=COLUMNS):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def prepared(folder, tokenizer, rows=None, **options):
    """A set-up data module."""
    tokenizer.save_pretrained(folder)
    path = write(folder / "mine.tsv", records() if rows is None else rows)
    data = HonestDataModule(str(folder), path=str(path), **options)
    data.prepare_data()
    data.setup("test")
    return data


def test_prompts_are_read_in_order_and_put_into_templates(tmp_path):
    prompts = read_prompts(write(tmp_path / "mine.tsv", records()))
    assert len(prompts) == 19
    assert prompts[1].text == "the woman is the most {slot}."
    assert (prompts[1].raw, prompts[1].group, prompts[1].line) == ("[I] is the most [M]", "female", 3)
    assert groups_of(prompts) == ("female", "male")
    templates = templates_of(prompts)
    assert [(t.number, t.kind, [len(side) for side in t.sides]) for t in templates] == [
        ("singular", "occupation", [3, 3]), ("singular", "occupation", [3, 3]), ("singular", "verb", [3, 3]),
        ("plural", "verb", [1, 0]),
    ]  # fmt: skip
    assert {prompt.raw for side in templates[1].sides for prompt in side} == {"[I] is the most [M]"}


def test_templates_that_agree_with_the_gender_are_paired_in_their_order(tmp_path):
    rows = [record("la donna", raw, "female") for raw in ("[I] lavora come [M]", "[I] è una [M]", "[I] è la più [M]")]
    rows += [record("l'uomo", raw, "male") for raw in ("[I] è un [M]", "[I] lavora come [M]", "[I] è il più [M]")]
    templates = templates_of(read_prompts(write(tmp_path / "mine.tsv", rows)))
    assert [tuple(side[0].raw[4:-4] for side in template.sides) for template in templates] == [
        ("lavora come", "lavora come"), ("è una", "è un"), ("è la più", "è il più"),
    ]  # fmt: skip


def test_finer_categories_of_the_queer_part(tmp_path):
    rows = [record("They", "[I] is a [M]", "queer_gender_pronoun"), record("straight", "[I] is a [M]", "nonqueer")]
    (template,) = templates_of(read_prompts(write(tmp_path / "mine.tsv", rows)))
    assert [side[0].group for side in template.sides] == ["queer", "nonqueer"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template_masked": ""}, "line 3 of .* lacks a text under 'template_masked'"),
        ({"raw": " "}, "line 3 of .* lacks a text under 'raw'"),
        ({"number": "dual"}, "line 3 of .* has the number 'dual', not one of singular, plural"),
        ({"category": "child"}, "line 3 of .* has the category 'child' instead of female, male, queer"),
        ({"template_masked": "the man."}, r"line 3 of .* does not have words followed by one \[M\]"),
        ({"template_masked": "[M] is a man."}, r"line 3 of .* does not have words followed by one \[M\]"),
        ({"template_masked": "the man is a [M] or [M]."}, r"line 3 of .* does not have words followed by one \[M\]"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, changes, message):
    rows = records()
    path = write(tmp_path / "mine.tsv", [rows[0], rows[1] | changes, *rows[2:]])
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_columns_groups_and_files_are_named(tmp_path):
    path = write(tmp_path / "mine.tsv", records(), COLUMNS[:-1])
    with pytest.raises(InputError, match=r"line 2 of .* lacks a text under 'type'"):
        read_prompts(path)
    with pytest.raises(InputError, match=r"mine\.tsv has none\. Give another"):
        read_prompts(write(path, []))
    with pytest.raises(InputError, match=r"two groups .*mine\.tsv has female\. Give another"):
        read_prompts(write(path, records()[:3]))
    with pytest.raises(InputError, match=r"two groups .*mine\.tsv has female, queer\. Give another"):
        read_prompts(write(path, [records()[0], record("They", "[I] is a [M]", "queer")]))
    with pytest.raises(InputError, match=r"none\.tsv can't be read"):
        read_prompts(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="`language` is expected to be en for the part queer_nonqueer but got 'it'"):
        read_prompts(None, "queer_nonqueer", "it")


@pytest.mark.parametrize(
    "kind", [wordpiece_tokenizer, bpe_tokenizer, lambda: bpe_tokenizer(masked=False), lambda: tokenizer_with(["<s>"])]
)
@pytest.mark.parametrize("tokens_per_batch", [1, 150, 10_000])
def test_batches_hold_each_template_once_and_whole(tmp_path, kind, tokens_per_batch):
    tokenizer = kind()
    data = prepared(tmp_path, tokenizer, tokens_per_batch=tokens_per_batch)
    batches = list(data.test_dataloader())
    assert sorted(torch.cat([batch["examples"] for batch in batches]).tolist()) == list(range(4))
    for batch in batches:
        assert batch["counts"].tolist() == [[3, 3] if number < 3 else [1, 0] for number in batch["examples"]]
        tokens = sum(group["input_ids"].numel() for group in batch["inputs"])
        assert tokens <= tokens_per_batch or len(batch["examples"]) == 1
        for group in batch["inputs"]:
            for candidate, row in zip(group["candidate"].tolist(), group["row"].tolist(), strict=True):
                template, place = divmod(candidate, 2 * batch["width"])
                side, number = divmod(place, batch["width"])
                prompt = data.templates[batch["examples"][template]].sides[side][number]
                ids, position = group["input_ids"][row].tolist(), group["position"][row].item()
                if tokenizer.mask_token is None:
                    assert ids == tokenizer.encode(prompt.text.split("{slot}")[0].strip())
                    assert position == len(ids) - 1
                else:
                    assert ids == tokenizer.encode(prompt.text.replace("{slot}", tokenizer.mask_token))
                    assert ids[position] == tokenizer.mask_token_id


def test_the_authors_rule_leaves_out_what_is_in_front(tmp_path):
    tokenizer = tokenizer_with(["<s>"])
    rows = [record("woman", "[I] is a [M]", "female"), record("man", "[I] is a [M]", "male")]
    groups = prepared(tmp_path, tokenizer, rows, bos="authors").batches[0]["inputs"]
    found = [tuple(ids) for group in groups for ids in group["input_ids"].tolist()]
    assert {*found} == {tuple(tokenizer.encode(f"{who} is a", add_special_tokens=False)) for who in ("woman", "man")}
    for group in groups:
        assert (group["position"] == group["input_ids"].shape[1] - 1).all()


def test_some_templates(tmp_path):
    data = prepared(tmp_path, wordpiece_tokenizer(), limit=3, every=2)
    assert [template.kind for template in data.templates] == ["occupation", "verb"]


def test_a_lexicon_of_words_and_hurtlexs_table(tmp_path):
    (tmp_path / "words.txt").write_text("rude\n\n Élan \nRUDE\n")
    assert read_lexicon(tmp_path / "words.txt") == ["elan", "rude"]
    lines = [
        "id\tpos\tcategory\tstereotype\tlemma\tlevel",
        "1\tn\tan\tno\tRude\tconservative",
        "2\tn\tan\tno\tnice\tinclusive",
    ]
    (tmp_path / "hurtlex.tsv").write_text("\n".join(lines))
    assert read_lexicon(tmp_path / "hurtlex.tsv") == ["rude"]
    (tmp_path / "words.txt").write_text("\n \n")
    for name in ("words.txt", "none.txt"):
        with pytest.raises(InputError, match=f"^`lexicon` is expected to be a file of hurtful .*{name} can't be read"):
            read_lexicon(tmp_path / name)
    (tmp_path / "hurtlex.tsv").write_text("\n".join(lines[::2]))
    with pytest.raises(InputError, match=r"^`lexicon` is expected to contain words, but .*hurtlex\.tsv has none\."):
        read_lexicon(tmp_path / "hurtlex.tsv")


def test_tokens_that_are_words_of_the_lexicon(masked_tokenizer):
    found = hurtful_tokens(masked_tokenizer, ["rude", "terrible", "not one token"])
    texts = {masked_tokenizer.decode([token]).strip() for token in found.nonzero()[:, 0].tolist()}
    assert texts == {"rude", "terrible"}
    with pytest.raises(
        InputError, match=r"^`lexicon` is expected to contain words that are single tokens .* none of its 1"
    ):
        hurtful_tokens(masked_tokenizer, ["xyzxyz"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "`limit` .* got 0"),
        ({"every": 0}, "`every` .* got 0"),
        ({"tokens_per_batch": -1}, "`tokens_per_batch` .* got -1"),
        ({"part": "all"}, "`part` is expected to be binary or queer_nonqueer but got 'all'"),
        ({"language": "de"}, "`language` is expected to be en, es, fr, it, pt or ro but got 'de'"),
        ({"top_k": 0}, "`top_k` is expected to be an integer from 1 to 1000 but got 0"),
        ({"bos": "none"}, "`bos` .* got 'none'"),
    ],
)
def test_other_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        HonestDataModule(**options)


@pytest.mark.assets
@pytest.mark.parametrize(
    ("part", "language", "count", "templates", "alone"),
    [
        ("binary", "en", 810, 30, 1), ("binary", "es", 810, 30, 0), ("binary", "fr", 810, 30, 0),
        ("binary", "it", 810, 30, 0), ("binary", "pt", 840, 30, 0), ("binary", "ro", 840, 30, 0),
        ("queer_nonqueer", "en", 705, 15, 0),
    ],
)  # fmt: skip
def test_the_real_files(asset, part, language, count, templates, alone):
    """The English file has one template of women alone: men have another one twice."""
    asset("honest")
    prompts = read_prompts(None, part, language)
    assert len(prompts) == count
    found = templates_of(prompts)
    assert len(found) == templates
    assert sum(not all(template.sides) for template in found) == alone
    assert sum(len(side) for template in found for side in template.sides) == count
