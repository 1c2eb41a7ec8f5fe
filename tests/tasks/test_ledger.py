from pathlib import Path

import pytest
import torch

from biaslab.metrics.neuron_selection import NeuronSelection
from biaslab.metrics.quality import IntegrationQuality
from biaslab.tasks.shards import Ledger, Shards


def collectors() -> dict[str, NeuronSelection | IntegrationQuality]:
    return {"prompts": NeuronSelection(["a/x-y", "a/y-z"], ["k"], (2, 3)), "quality": IntegrationQuality()}


def collect(metrics: dict, number: int) -> None:
    scores = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(number))
    metrics["prompts"].update(scores, torch.tensor([0, 1, 0, 1]), torch.zeros(4).long(), torch.full((4,), number))
    metrics["quality"].update(number, scores[:, None, :, 0] / 100, scores.abs().sum(-1)[:, None], torch.full((4, 2), 3))


def a_ledger(folder: Path, every: float = 0) -> Ledger:
    shards = Shards(folder)
    shards.open({"steps": 2})
    return Ledger(collectors(), shards, every)


def results(metrics: dict) -> tuple:
    collected = {name: values.tolist() for name, values in metrics["prompts"].compute().items()}
    rows = [sorted(collected.pop(name)) for name in ("prompts", "votes")]  # they have no order
    return collected, rows, metrics["quality"].compute()


@pytest.mark.parametrize("every", [0, 1e9])
def test_gathers_what_was_collected_in_any_order(tmp_path, every):
    whole = collectors()
    for number in range(6):
        collect(whole, number)
    for numbers in ((4, 1, 3), (0, 5, 2)):  # two processes
        ledger = a_ledger(tmp_path, every)
        for number in numbers:
            with ledger.item(number):
                collect(ledger.collectors, number)
        ledger.write()
    assert len(list(tmp_path.glob("shard-*"))) == (6 if every == 0 else 2)
    ledger.gather()
    assert results(ledger.collectors) == results(whole)


def test_an_item_that_was_broken_off_is_not_written(tmp_path):
    ledger = a_ledger(tmp_path, every=1e9)
    with ledger.item(0):
        collect(ledger.collectors, 0)

    def break_off() -> None:
        with ledger.item(1):
            ledger.collectors["prompts"].update(torch.ones(1, 2, 3), *torch.zeros(3, 1).long())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    ledger.write()
    assert ledger.shards.finished() == set()


def test_what_is_whole_is_written_when_something_else_fails(tmp_path):
    ledger = a_ledger(tmp_path, every=1e9)
    with ledger.item(7):
        collect(ledger.collectors, 7)
    ledger.write()
    ledger.write()
    assert ledger.shards.finished() == {7}
