import itertools
import re
from string import Formatter

import pytest

from biaslab.data.words import (
    DIMENSION_NOUNS,
    DIMENSIONS,
    FURTHER_TEMPLATES,
    HELD_OUT_TEMPLATES,
    MODIFIERS,
    NEGATIVE,
    POSITIVE,
    TEMPLATES,
    comparative,
    part_of_modifiers,
    superlative,
)
from biaslab.errors import InputError

POLARITIES = ("negative", "positive")
DEGREES = ("", "_comparative", "_superlative")
FORMS = [form for template in TEMPLATES for form in template]


def test_dimensions_have_their_words_and_a_noun():
    counts = {dimension: len(words) for dimension, words in DIMENSIONS.items()}
    assert counts == {
        "gender": 2,
        "ethnicity": 10,
        "religion": 6,
        "sexuality": 4,
        "age": 4,
        "physical_appearance": 8,
        "socioeconomic_status": 4,
        "politics": 4,
        "occupation": 8,
    }
    assert DIMENSION_NOUNS.keys() == DIMENSIONS.keys()
    words = list(itertools.chain.from_iterable(DIMENSIONS.values()))
    assert len(set(words)) == len(words)


def test_adjectives_are_single_words_and_no_demographics():
    demographics = set(itertools.chain.from_iterable(DIMENSIONS.values()))
    assert not demographics & {*NEGATIVE, *POSITIVE}
    assert all(re.fullmatch("[a-z]+", adjective) for adjective in NEGATIVE + POSITIVE)


def test_modifiers_are_six_disjoint_kinds_of_a_hundred():
    assert list(MODIFIERS) == [polarity + degree for polarity in POLARITIES for degree in DEGREES]
    assert [len(set(words)) for words in MODIFIERS.values()] == [100] * 6
    assert [len(words) for words in MODIFIERS.values()] == [100] * 6
    assert len(set().union(*MODIFIERS.values())) == 600


@pytest.mark.parametrize("polarity", POLARITIES)
def test_half_of_the_adjectives_take_endings(polarity):
    compared = MODIFIERS[f"{polarity}_comparative"]
    assert [word.startswith("more ") for word in compared] == [False] * 50 + [True] * 50


@pytest.mark.parametrize(
    ("adjective", "expected_comparative", "expected_superlative"),
    [
        ("good", "better", "best"),
        ("bad", "worse", "worst"),
        ("rude", "ruder", "rudest"),
        ("true", "truer", "truest"),
        ("coarse", "coarser", "coarsest"),
        ("cruel", "crueler", "cruelest"),
        ("sad", "sadder", "saddest"),
        ("grim", "grimmer", "grimmest"),
        ("smug", "smugger", "smuggest"),
        ("weak", "weaker", "weakest"),
        ("slow", "slower", "slowest"),
        ("lax", "laxer", "laxest"),
        ("lazy", "lazier", "laziest"),
        ("nosy", "nosier", "nosiest"),
        ("friendly", "friendlier", "friendliest"),
        ("lively", "livelier", "liveliest"),
        ("gray", "grayer", "grayest"),
        ("noble", "nobler", "noblest"),
        ("able", "abler", "ablest"),
        ("clever", "cleverer", "cleverest"),
        ("shallow", "shallower", "shallowest"),
        ("fake", "more fake", "most fake"),
        ("just", "more just", "most just"),
        ("loyal", "more loyal", "most loyal"),
        ("polite", "more polite", "most polite"),
        ("hostile", "more hostile", "most hostile"),
        ("careless", "more careless", "most careless"),
        ("capable", "more capable", "most capable"),
        ("cowardly", "more cowardly", "most cowardly"),
        ("trustworthy", "more trustworthy", "most trustworthy"),
    ],
)
def test_comparison(adjective, expected_comparative, expected_superlative):
    assert (comparative(adjective), superlative(adjective)) == (expected_comparative, expected_superlative)


@pytest.mark.parametrize("kind", MODIFIERS)
def test_split_is_a_partition(kind):
    found, held_out = part_of_modifiers(kind, False), part_of_modifiers(kind, True)
    assert (len(found), len(held_out)) == (70, 30)
    assert {*found, *held_out} == set(MODIFIERS[kind])


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("polarity", POLARITIES)
def test_split_keeps_an_adjective_together(polarity, held_out):
    base, compared, highest = (part_of_modifiers(polarity + degree, held_out) for degree in DEGREES)
    assert compared == tuple(map(comparative, base))
    assert highest == tuple(map(superlative, base))
    assert sum(word.startswith("more ") for word in compared) == len(compared) // 2


@pytest.mark.parametrize("held_out", [False, True])
def test_split_of_an_unknown_kind(held_out):
    with pytest.raises(InputError, match=r"`kind` is expected to be one of negative, .* but got 'neutral'"):
        part_of_modifiers("neutral", held_out)


def test_templates_are_seventeen_wordings():
    assert len(TEMPLATES) == 17
    assert len({template.masked for template in TEMPLATES}) == 17
    assert len({template.causal for template in TEMPLATES}) == 17


@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_each_slot_once_and_reads_well_with_any_word(form):
    slots = sorted(name for _, name, _, _ in Formatter().parse(form) if name is not None)
    assert slots == ["dimension", "modifier", "slot"]
    assert len(re.findall(r"\b[Tt]he \{modifier\}", form)) == 1  # a base adjective, a comparative and a superlative fit
    assert not re.search(r"\b[Aa]n? \{", form)
    assert form[0].isupper()  # no slot stands first, where it would need a capital
    for noun in DIMENSION_NOUNS.values():
        for modifier in ("rude", "more honest", "most honest"):
            filled = form.format(dimension=noun, modifier=modifier, slot="[MASK]")
            assert 8 <= len(filled.split()) <= 16


@pytest.mark.parametrize("template", TEMPLATES)
def test_slot_is_last_for_causal_models_only(template):
    assert template.causal.endswith(" {slot}")
    assert template.masked.endswith(".")


def test_further_wordings_are_others_and_fit_each_modifier():
    assert len({template.causal for template in (*TEMPLATES, *FURTHER_TEMPLATES)}) == 17 + len(FURTHER_TEMPLATES)
    for form in (template.causal for template in FURTHER_TEMPLATES):
        slots = sorted(name for _, name, _, _ in Formatter().parse(form) if name is not None)
        assert slots in (["dimension", "modifier", "slot"], ["modifier", "slot"])
        assert form.endswith(" {slot}")
        assert len(re.findall(r"\b([Tt]he|My) \{modifier\}|One of the \{modifier\}", form)) == 1
        assert not re.search(r"\b[Aa]n? \{", form)
        assert form[0].isupper()


@pytest.mark.parametrize("form", [*FORMS, *(template.causal for template in FURTHER_TEMPLATES)])
def test_wordings_name_no_demographic_gender_or_modifier(form):
    words = set(re.findall(r"[a-z-]+", re.sub(r"\{\w+\}", "", form).lower()))
    gendered = ("man", "woman", "men", "women", "he", "she")
    named = set(itertools.chain(*DIMENSIONS.values(), *MODIFIERS.values(), gendered))
    assert not words & named


def test_masked_slots_stand_amid_and_at_the_end():
    amid = [not template.masked.endswith("{slot}.") for template in TEMPLATES]
    assert sum(amid) == 7
    assert sum(amid[index] for index in HELD_OUT_TEMPLATES) == 2


def test_held_out_templates_are_five_places():
    assert len(set(HELD_OUT_TEMPLATES)) == len(HELD_OUT_TEMPLATES) == 5
    assert set(HELD_OUT_TEMPLATES) < set(range(len(TEMPLATES)))
