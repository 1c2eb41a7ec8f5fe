"""What the commands that ask a model share."""

import pytest

from biaslab.commands.judging import model_of, perplexity
from biaslab.errors import InputError
from biaslab.models.loading import origin
from biaslab.neurons.neuron_set import NeuronSet


def test_ordinary_text_without_sentences_is_told(lab, tmp_path):
    """Before the long work; debias, table and sweep did not look."""
    (tmp_path / "short.txt").write_text("")
    for split in ("evaluation", "validation"):
        with pytest.raises(InputError, match=f"`text` is expected to have {split} sentences but .* has none"):
            perplexity(str(tmp_path / "short.txt"), 3, split)
    with pytest.raises(InputError, match="`sentences` is expected to be a positive integer but got 0"):
        perplexity(str(lab / "text.txt"), 0)
    assert len(perplexity(str(lab / "text.txt"), 3).sentences) == 3


def test_the_model_of_a_neuron_file():
    named = NeuronSet([(0, 1)]).with_details(provenance={"model": {"name": "tiny"}})
    assert model_of(named, "n.json") == "tiny"
    with pytest.raises(InputError, match=r"`model` is expected because n\.json does not name"):
        model_of(NeuronSet([(0, 1)]), "n.json")


def test_the_folder_of_a_model_is_found_from_elsewhere(lab, tmp_path, monkeypatch):
    """By its relative name where that is the same folder, else by its path; an error says where it was."""
    monkeypatch.chdir(lab)
    named = NeuronSet([(0, 1)]).with_details(provenance={"model": origin("model", "0123")})
    assert model_of(named, "n.json") == "model"
    for place in (tmp_path, tmp_path / "other"):
        (place / "model").mkdir(parents=True)  # another folder of the same name
        monkeypatch.chdir(place)
        assert model_of(named, "n.json") == str(lab / "model")
    moved = NeuronSet([(0, 1)]).with_details(provenance={"model": {"name": "gone", "folder": str(tmp_path / "gone")}})
    with pytest.raises(InputError, match=r"`model` is expected because n\.json names the folder .*gone"):
        model_of(moved, "n.json")
    (tmp_path / "other" / "gone").mkdir()
    assert model_of(moved, "n.json") == "gone"
    assert origin("minilm-mlm", "0") == {"name": "minilm-mlm", "fingerprint": "0"}
