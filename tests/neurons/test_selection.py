"""Selection by scores."""

import pytest
import torch

from biaslab.errors import InputError
from biaslab.neurons.selection import guarded


@pytest.mark.parametrize("scores", [torch.tensor([[-0.5, -0.1]]), torch.zeros(1, 2)])
def test_guarded_refuses_scores_without_a_positive_one(scores):
    """Divided by a negative maximum, the neurons that lower the gap would come first."""
    with pytest.raises(InputError, match="`scores` is expected to have a positive score"):
        guarded(scores, torch.ones(1, 2), count=1)
