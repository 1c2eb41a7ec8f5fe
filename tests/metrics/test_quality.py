import math

import torch

from biaslab.metrics.quality import IntegrationQuality


def batches(count: int):
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        residual = torch.randn(3, 2, 4, generator=generator) * 1e-3
        yield number, residual, 1 + torch.rand(3, 2, 4, generator=generator), torch.randint(3, 9, (3, 4))


def test_figures():
    metric, seen = IntegrationQuality(), list(batches(5))
    for batch in seen:
        metric.update(*batch)
    residual, size, nodes = (torch.cat([batch[i] for batch in seen]).double() for i in (1, 2, 3))
    quality = metric.compute()
    assert math.isclose(quality.mean, float(residual.abs().sum() / size.sum()), rel_tol=1e-12)
    assert math.isclose(quality.worst, float((residual.abs().sum(-1) / size.sum(-1)).max()), rel_tol=1e-12)
    assert math.isclose(quality.nodes, float(nodes.mean()), rel_tol=1e-12)
    assert quality.most_nodes == int(nodes.max())


def test_neither_order_nor_parts_change_a_bit():
    whole, parts = IntegrationQuality(), [IntegrationQuality(), IntegrationQuality()]
    for batch in batches(7):
        whole.update(*batch)
        parts[batch[0] % 2].update(*batch)
    together = IntegrationQuality()
    for part in (parts[1], IntegrationQuality(), parts[0]):
        together.add_part(part.part())
    assert together.compute() == whole.compute()


def test_nothing_collected():
    assert IntegrationQuality().part() == {}
