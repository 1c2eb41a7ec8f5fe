"""Small files of WinoBias' and Winogender's forms, of words that the tests' tokenizers know."""

from __future__ import annotations

from pathlib import Path

MALE, FEMALE = ("driver", "doctor", "boy"), ("friend", "girl", "city doctor")
_TYPES = {
    1: ("[The {a}] loves the {b} because [{he}] is kind.", "The {b} works with [the {a}] and [{his}] friend."),
    2: ("The {b} loves the {a} and hates [{him}] at home.", "the {b} 's friend is kind to [the {a}] and [{himself}]."),
}
_WORDS = {
    "male": {"he": "he", "his": "his", "him": "him", "himself": "himself"},
    "female": {"he": "she", "his": "her", "him": "her", "himself": "herself"},
}
SHARES = {"driver": 12.5, "doctor": 38.0, "friend": 50.0, "girl": 97.0}
_SENTENCES = ("The {a} loves the {b} and {he} is kind.", "The {b} was rude to the {a} who hates {his} {b}.")


def winobias(folder: Path, parts: tuple[str, ...] = ("dev", "test"), count: int = 12) -> Path:
    """Write files whose lines take turns in template, stereotype and occupation."""
    folder.mkdir(exist_ok=True)
    for kind, templates in _TYPES.items():
        for part in parts:
            for side in ("pro", "anti"):
                lines = [_line(number, templates, side) for number in range(count)]
                (folder / f"{side}_stereotyped_type{kind}.txt.{part}").write_text("\n".join(lines) + "\n")
    return folder


def _line(number: int, templates: tuple[str, ...], side: str) -> str:
    names, others = (MALE, FEMALE) if number % 2 == 0 else (FEMALE, MALE)
    gender = "male" if (number % 2 == 0) == (side == "pro") else "female"
    text = templates[number // 2 % 2].format(a=names[number % 3], b=others[number // 2 % 3], **_WORDS[gender])
    if "[the" not in text.lower():
        text = text.replace(f"the {names[number % 3]}", f"[the {names[number % 3]}]", 1)
    return f"{number + 1} {text}"


def winogender(folder: Path) -> Path:
    """Write both files, with two templates an occupation, and two participants."""
    folder.mkdir(exist_ok=True)
    lines = ["sentid\tsentence"]
    words = {**_WORDS, "neutral": {"he": "they", "his": "their"}}
    for occupation in SHARES:
        for answer, template in enumerate(_SENTENCES):
            for participant in ("man", "woman"):
                for gender, forms in words.items():
                    text = template.format(a=occupation, b=participant, **forms)
                    lines.append(f"{occupation}.{participant}.{answer}.{gender}.txt\t{text}")
    (folder / "all_sentences.tsv").write_text("\n".join(lines) + "\n")
    rows = ["occupation\tbergsma_pct_female\tbls_pct_female\tbls_year"]
    rows += [f"{occupation}\t10.0\t{share}\t2015" for occupation, share in SHARES.items()]
    (folder / "occupations-stats.tsv").write_text("\n".join(rows) + "\n")
    return folder
