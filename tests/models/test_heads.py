import pytest
import torch

from biaslab.models.heads import replaced_forward


def test_a_replaced_forward_is_as_before_afterwards():
    module = torch.nn.Linear(2, 2)
    ones, expected = torch.ones(1, 2), module(torch.ones(1, 2))
    for before in (None, lambda values: values + 1):  # nothing, or one set on the instance, as accelerate does
        if before is not None:
            module.forward = before
        with replaced_forward(module, lambda values: 2 * values):
            assert torch.equal(module(ones), 2 * ones)
            with pytest.raises(RuntimeError), replaced_forward(module, lambda values: 3 * values):
                module(torch.ones(1, 2)).view(3)  # an exception within the block
            assert torch.equal(module(ones), 2 * ones)
        assert vars(module).get("forward") is before
        assert torch.equal(module(ones), expected if before is None else ones + 1)
