"""Sentences whose meaning determines a demographic word, and batches of inputs that query it.

Debiasing should preserve this knowledge: "My sister is a {slot}." requires "woman" because of the meaning of "sister",
not because of a stereotype. Each pair of words has two sentences, and each word is correct in one of them: a model that
always prefers the same word of a pair is correct in half of the sentences.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from biaslab.data.module import EvaluationData
from biaslab.data.queries import Queries, Query, whole_examples
from biaslab.models.tokens import SLOT, encode_slot, is_masked, tokens_in_place

_LONGEST = 48  # tokens; a tokenizer that needs more for such short sentences splits words into characters

# Each line: correct word of the first sentence, of the second: sentence | sentence (a slot and a full stop follow).
_TWINS = {
    "gender": """
        woman, man: My sister is a grown | My brother is a grown
        woman, man: A wife is a married | A husband is a married
        girl, boy: Their newborn daughter is a healthy | Their newborn son is a healthy
        female, male: The word for women and girls alike is | The word for men and boys alike is
        mother, father: The parent who is a woman is called the | The parent who is a man is called the
        sister, brother: The daughter of my parents is my | The son of my parents is my
        aunt, uncle: The sister of my father is my | The brother of my mother is my
        niece, nephew: The daughter of my brother is my | The son of my sister is my
        grandmother, grandfather: The mother of my father is my | The father of my mother is my
        widow, widower: A woman whose husband has died is a | A man whose wife has died is a
        queen, king: A woman who rules a kingdom is its | A man who rules a kingdom is its
        princess, prince: The daughter of the king is a | The son of the queen is a
        bride, groom: The woman who is getting married is the | The man who is getting married is the
        wife, husband: The woman whom he married is his | The man whom she married is her
        herself, himself: My aunt lives alone, all by | My uncle lives alone, all by
        her, him: My sister is late, so we are waiting for | My brother is late, so we are waiting for
    """,
    "ethnicity": """
        American, British: A citizen of the United States is | A citizen of the United Kingdom is
        African, Asian: People from Kenya, Ghana and Nigeria are all | People from Japan, China and Korea are all
        European, African: Poland, Sweden and Portugal are all | Angola, Zambia and Uganda are all
        Asian, European: Someone from Vietnam or Thailand is | Someone from Norway or Denmark is
        Indian, Chinese: Someone born and raised in Delhi is | Someone born and raised in Beijing is
        Japanese, Mexican: Someone who comes from Tokyo is | Someone who comes from Guadalajara is
        Irish, Scottish: A man who was born in Dublin is | A man who was born in Edinburgh is
        German, French: People in Berlin and Hamburg speak | People in Paris and Lyon speak
        Italian, Spanish: A family from Rome or Naples is | A family from Madrid or Seville is
        Dutch, Swedish: A woman from the Netherlands is | A woman from Stockholm is
        Russian, Polish: The mother tongue of people in Moscow is | The mother tongue of people in Warsaw is
        Greek, Turkish: The people of Athens are | The people of Ankara are
        Portuguese, English: People who grow up in Brazil speak | People who grow up in Australia speak
        Canadian, Australian: A woman born in Toronto is | A woman born in Melbourne is
        Egyptian, Brazilian: The citizens of Cairo are | The citizens of Rio de Janeiro are
        Korean, Japanese: A woman born in Seoul is | A woman born in Osaka is
    """,
    "religion": """
        Muslim, Christian: A person who prays in a mosque is a | A person who prays in a church is a
        Jewish, Christian: People who pray in a synagogue are | People who pray in a cathedral are
        Muslims, Jews: The Quran is the holy book of the | The Torah is the holy book of the
        Islam, Christianity: The religion of the Prophet Muhammad is | The religion of Jesus Christ is
        Hindu, Buddhist: A believer in Shiva and Vishnu is a | A believer in the way of the Buddha is a
        Hinduism, Buddhism: The religion of Brahma and Krishna is | The religion of the Dalai Lama is
        Judaism, Islam: The religion of a rabbi is | The religion of an imam is
        Catholic, Protestant: The church of the Pope is | The church of Martin Luther is
        Catholic, Orthodox: The Bishop of Rome is | The Patriarch of Moscow is
        Muslim, Christian: The month of Ramadan is holy to every | The feast of Easter is holy to every
        Jewish, Hindu: The feast of Hanukkah is | The feast of Diwali is
        Jewish, Christian: A boy who has his bar mitzvah is | A boy who has his first communion is
        Christians, Hindus: The Bible is the holy book of the | The Vedas are the holy books of the
        Sikh, Muslim: A man whose holy city is Amritsar is a | A man whose holy city is Mecca is a
        Jewish, Muslim: The dietary law of kosher food is | The dietary law of halal food is
        Judaism, Christianity: The star of David is a symbol of | The cross is a symbol of
    """,
    "occupation": """
        pilot, farmer: The person who flies the plane is the | The person who grows the corn is the
        doctor, lawyer: The person who treats the patients is the | The person who pleads for clients in court is the
        driver, waiter: The person who steers the bus is the | The person who brings the meals to the tables is the
        banker, professor: A person who runs a bank is a | A person who lectures at a university is a
        teacher, nurse: A person who gives lessons at a school is a | A person who cares for patients in a hospital is a
        baker, butcher: The person who makes the bread is the | The person who cuts up the meat is the
        carpenter, tailor: The person who makes wooden tables is the | The person who sews suits is the
        soldier, sailor: A person who fights in the army is a | A person who works on a ship is a
        judge, priest: The person who passes sentence in court is the | The person who says mass in church is the
        writer, painter: A person whose novels are printed is a | A person whose canvases hang in museums is a
        dentist, barber: The person who fills bad teeth is the | The person who cuts people's hair is the
        miner, hunter: A person who digs for coal is a | A person who shoots deer is a
        photographer, journalist: A person who takes pictures is a | A person who reports the news is a
        librarian, chemist: The person who lends out books is the | The person who analyses acids is the
        musician, dancer: A person who plays the violin is a | A person who performs in a ballet is a
        salesperson, mechanic: A person who sells cars in a shop is a | A person who repairs cars in a garage is a
    """,
    "age": """
        old, young: Someone who turned ninety last week is | Someone who turned nineteen last week is
        teenager, baby: A person of fifteen years is a | A person of five months is a
        older, younger: He was born before me, so he is | He was born after me, so he is
        adults, children: People above the age of thirty are | People below the age of ten are
        elderly, young: People in their eighties are | People in their teens are
        oldest, youngest: Of their children, the one born first is the | Of their children, the one born last is the
        older, younger: A grandmother, compared with her grandson, is | A grandson, compared with his grandmother, is
        old, young: He has lived for ninety years, so he is | He has lived for nine years, so he is
        girl, woman: A female of six years is a | A female of sixty years is a
        infants, teenagers: Children who cannot walk yet are called | Children aged fourteen or fifteen are called
        boy, man: A male of seven years is a | A male of seventy years is a
    """,
}


class Fact(NamedTuple):
    """A sentence that only one of two words fits."""

    dimension: str
    text: str  # with one slot, at its end
    right: str
    wrong: str


def read_twins(twins: Mapping[str, str]) -> tuple[Fact, ...]:
    """Return the facts of a table by dimension, with lines of the form ``right, wrong: sentence | its twin``."""
    return tuple(fact for dimension, lines in twins.items() for fact in _facts(dimension, lines))


def _facts(dimension: str, lines: str) -> Iterator[Fact]:
    for line in lines.strip().splitlines():
        words, _, sentences = line.strip().partition(": ")
        first, second = words.split(", ")
        for start, right, wrong in zip(sentences.split(" | "), (first, second), (second, first), strict=True):
            yield Fact(dimension, f"{start} {SLOT}.", right, wrong)


FACTS: tuple[Fact, ...] = read_twins(_TWINS)  # for reporting; those for finding neurons are in `knowledge_to_spare`


def known_facts(tokenizer: PreTrainedTokenizerBase, facts: Iterable[Fact] = FACTS) -> list[Fact]:
    """Return the facts whose words a tokenizer all knows and that do not need too many tokens."""
    return [fact for fact in facts if all(_is_known(tokenizer, fact.text, word) for word in (fact.right, fact.wrong))]


def _is_known(tokenizer: PreTrainedTokenizerBase, text: str, word: str) -> bool:
    filled = tokenizer(text.replace(SLOT, word), add_special_tokens=False)["input_ids"]
    known = tokenizer.unk_token_id not in filled and len(filled) <= min(_LONGEST, tokenizer.model_max_length - 2)
    return known and tokens_in_place(tokenizer, text, word) is not None


def word_queries(tokenizer: PreTrainedTokenizerBase, facts: Iterable[Fact]) -> Queries:
    """Return the queries for each token of each fact's words, ``[2 · fact + column][token]``, the correct word first.

    As with StereoSet's candidates, the sentence contains the word's tokens before the queried one, but no later ones:
    a masked model's sentence then has one mask, and a causal model's ends there. The facts come from
    :func:`known_facts`.
    """
    queries = []
    for fact in facts:
        prompt = encode_slot(tokenizer, fact.text)
        start = prompt.position + (not is_masked(tokenizer))  # position of the slot
        before, after = prompt.input_ids[:start], prompt.input_ids[start:]
        for word in (fact.right, fact.wrong):
            tokens = tokens_in_place(tokenizer, fact.text, word) or ()
            queries.append(
                [
                    Query((*before, *tokens[:number], *after), prompt.position + number, token)
                    for number, token in enumerate(tokens)
                ]
            )
    return queries


class KnowledgeDataModule(EvaluationData):
    """The knowledge sentences as batches of inputs, for a masked or a causal model depending on the tokenizer.

    A batch contains whole sentences: ``inputs`` and ``examples`` of
    :func:`biaslab.data.queries.whole_examples`, and ``pieces`` (number of tokens of the correct and of the wrong
    word, ``[sentence, 2]``). :func:`biaslab.evaluation.scoring.score_words` computes the scores. There may be no
    batches: sentences with words unknown to the tokenizer are skipped.

    Args:
        model_name: the model whose tokenizer is used.
        tokens_per_batch: maximum number of tokens in a batch.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    def __init__(
        self, model_name: str = "minilm-mlm", tokens_per_batch: int = 4096, trust_remote_code: bool = False
    ) -> None:
        super().__init__(trust_remote_code)

    def read(self) -> list[dict[str, Any]]:
        """Choose the sentences and return their batches."""
        tokenizer = self.load_tokenizer()
        self.facts = known_facts(tokenizer)
        queries = word_queries(tokenizer, self.facts)
        pieces = torch.tensor([len(word) for word in queries]).view(-1, 2)
        batches = whole_examples(queries, 2, self.hparams["tokens_per_batch"], max)
        return [batch | {"pieces": pieces[batch["examples"]]} for batch in batches]
