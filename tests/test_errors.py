import pytest
from conftest import main

from biaslab.data.corpus import read_sentences
from biaslab.data.prompts import PromptDataModule, make_prompts
from biaslab.errors import InputError, did_you_mean, require_all_of, require_name_or_file, require_one_of
from biaslab.models import assets


@pytest.mark.parametrize(
    ("value", "near"),
    [("promts", "prompts"), ("Prompts", "prompts"), ("contrst", "contrast"), ("zebra", None), (3, None)],
)
def test_the_nearest_name(value, near):
    known = ["prompts", "contrast", "both"]
    hint = f" Did you mean {near!r}?" if near else ""
    assert did_you_mean(value, known) == hint
    for check, given in ((require_one_of, value), (require_all_of, ["both", value])):
        with pytest.raises(InputError) as caught:
            check("sources", given, known)
        assert str(caught.value).startswith("`sources` is expected to be ")
        assert ("Did you mean" in str(caught.value)) is bool(hint)
        assert str(caught.value).endswith(hint)


def test_no_values_at_all():
    with pytest.raises(InputError, match=r"`kinds` is expected to be of a, b but got none\."):
        require_all_of("kinds", [], ["a", "b"])


def test_a_file_may_have_a_name_that_is_near(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"`text` is expected to be of bold, bug, or a file, but got 'blod'\. Did"):
        require_name_or_file("text", "blod", ["bold", "bug"])
    (tmp_path / "blod").touch()
    require_name_or_file("text", "blod", ["bold", "bug"])
    require_name_or_file("text", "elsewhere/text.txt", ["bold", "bug"])  # whoever reads it says that it is not there


@pytest.mark.parametrize(
    "call",
    [
        lambda: read_sentences("blod", "train"),
        lambda: PromptDataModule(contrast="sterioset"),
        lambda: PromptDataModule(contrast=["bold", "knowlege"]),
        lambda: make_prompts(["gendre"], ["positive"], 1, "find"),
        lambda: assets.fetch("stereo-set"),
        lambda: main(["table", "--rows=[bns_balancd]"]),
        lambda: main(["sweep", "--sources=[promts]"]),
        lambda: main(["sweep", "--guards=[boldd]"]),
        lambda: main(["debias", "--text=blod"]),
        lambda: main(["predict", "-c", "atribute"]),
        lambda: main(["debiass"]),
        lambda: main(["debias", "--contrast=[stereoset, blod]"]),
        lambda: main(["debias", "--source_weights={promts: 1.0}"]),
        lambda: main(["sweep", "--source_weights=[{promts: 1.0}]"]),
        lambda: main(["sweep", "--domain_weights=[{gendr: 1.0}]"]),
        lambda: main(["sweep", "--text=blod"]),
    ],
    ids=range(16),
)
def test_lists_of_known_names(call, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, SystemExit)) as caught:
        call()
    assert "Did you mean" in str(caught.value) + capsys.readouterr().err
