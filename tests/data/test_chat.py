"""Prompts by a chat template: the user asks to complete the sentence, the assistant's turn begins with it."""

import conftest
import pytest
import torch
from conftest import bpe_tokenizer, make_model, tokenizer_with, wordpiece_tokenizer

from biaslab.commands.probe import probe
from biaslab.data.prompts import PromptDataModule
from biaslab.data.words import ACTIONS, GENDERS, WORDINGS
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.evaluation.templates import judging_log_probabilities, make_probes
from biaslab.models.tokens import as_chat, causal_tokens, encode_slot, tokens_in_place

TURN = "{% for m in messages %}<turn>{{ m['role'] }}: {{ m['content'] }}<end>{% endfor %}"
TEMPLATE = TURN + "{% if add_generation_prompt %}<turn>assistant: {% endif %}"
TEXT = "The old person is {slot}"


def chatty(front=(), template=TEMPLATE):
    tokenizer = tokenizer_with(front)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<end>"]})
    tokenizer.chat_template = template
    return tokenizer


def test_the_text():
    asked = as_chat(chatty(), TEXT)
    user = "<turn>user: Complete the sentence: The old person is<end>"
    assert asked == f"{user}<turn>assistant: The old person is {{slot}}"
    assert as_chat(chatty(), " The old person is {slot}.") == asked  # what follows the slot is left out


@pytest.mark.parametrize("front", [(), ("<|endoftext|>",)])
def test_there_is_one_bos(front):
    """Whether or not the template begins with what the tokenizer puts in front by itself."""
    plain, with_bos = chatty(front), chatty(front, "{{ bos_token }}" + TEMPLATE)
    start = plain.bos_token_id
    for tokenizer in (plain, with_bos):
        encoded = encode_slot(tokenizer, as_chat(tokenizer, TEXT))
        wanted = 1 if front or tokenizer is with_bos else 0
        assert encoded.input_ids.count(start) == wanted
        assert encoded.input_ids[:wanted] == [start] * wanted
        assert encoded.position == len(encoded.input_ids) - 1
    message = [{"role": "user", "content": "Complete the sentence: The old person is"}]
    chat = with_bos.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert encoded.input_ids == with_bos(chat + "The old person is", add_special_tokens=False)["input_ids"]


def test_words_follow_the_begun_sentence():
    tokenizer = chatty()
    (token,) = tokens_in_place(tokenizer, as_chat(tokenizer, TEXT), "rude")
    assert tokenizer.convert_ids_to_tokens(token) == "Ġrude"


def failing(template):
    tokenizer = bpe_tokenizer(masked=False)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (wordpiece_tokenizer(), "belongs to a masked model"),
        (failing(None), "has no chat template"),
        (failing("{{ raise_exception('system first') }}"), "fails: system first"),
        (failing("{% if %}"), "fails: "),
    ],
    ids=["masked", "none", "raises", "broken"],
)
def test_tokenizers_without_a_template_that_works(tokenizer, message):
    with pytest.raises(InputError, match=f"`chat_template` is expected .* {message}"):
        as_chat(tokenizer, TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat")
    words = ["good", "strong", "smart", "bad", "weak", "lazy", "Complete", "sentence", "The", "person"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "WORDS", conftest.WORDS + words + " ".join(ACTIONS).split())
        tokenizer = chatty()
    make_model("llama", len(tokenizer)).save_pretrained(path)
    model = make_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 512
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_the_data_module(folder):
    few = {"dimensions": ["gender"], "kinds": ["negative"], "modifiers": 2}
    chat, plain = (PromptDataModule(str(folder), **few, chat_template=value) for value in (True, False))
    chat.setup("predict")
    plain.setup("predict")
    assert [prompt.text for prompt in chat.prompts] == [prompt.text for prompt in plain.prompts]
    assert chat.fingerprint != plain.fingerprint
    for batch in chat.batches:
        for example, ids in zip(batch["example"].tolist(), batch["input_ids"].tolist(), strict=True):
            text = as_chat(chat.tokenizer, chat.prompts[example].text)
            assert ids == causal_tokens(chat.tokenizer, text.partition("{slot}")[0].rstrip())


def test_probing(folder, tmp_path, capsys):
    """The figures are those of the model that reads the whole chat, and the table says so."""
    from biaslab.models.loading import load_model

    model, tokenizer = load_model(str(folder))
    probes = make_probes(tokenizer, WORDINGS[:2], ACTIONS[:2], chat_template=True)
    found = judging_log_probabilities(model, tokenizer, probes)
    for number, logs in enumerate(found.view(-1, len(probes.words))):
        wording, gender = WORDINGS[number // 4], GENDERS[number % 2]
        begun = wording.causal.format(action=ACTIONS[number // 2 % 2], slot="", **gender).strip()
        chat = f"<turn>user: Complete the sentence: {begun}<end><turn>assistant: {begun}"
        logits = model(torch.tensor([tokenizer(chat)["input_ids"]])).logits[0, -1]
        expected = logits.log_softmax(0)[[tokenizer(f" {word}")["input_ids"][0] for word in probes.words]]
        torch.testing.assert_close(logs, expected, atol=1e-4, rtol=1e-4)
    probe(str(folder), output=str(tmp_path), chat_template=True)
    assert "asked through the chat template" in capsys.readouterr().out
    (file,) = tmp_path.glob("probe/*/probe.json")
    assert Findings.load(file).settings["chat_template"] is True
