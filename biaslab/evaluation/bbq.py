"""BBQ: scores three answers to questions about two people; accuracy, and whether errors conform to social bias."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.evaluation.measures import Scored
from biaslab.evaluation.scoring import require_kind, slot_log_probabilities
from biaslab.evaluation.sentences import ending_log_probabilities
from biaslab.metrics.bbq import NAMES, Questions, bbq_bootstrap, bbq_scores
from biaslab.statistics import Samples


@torch.no_grad()
def score_answers(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Score the three answers to each question by the mean log-probability of the answer's tokens.

    Scores are means because answers differ in length; they are averaged over several wordings, too. For a causal model,
    the answer follows the question and the list of answers. Text shared by the questions of a set is computed once.

    Args:
        model: a masked or causal language model, matching the batch.
        batch: a batch of a :class:`biaslab.data.bbq.BBQDataModule`, with whole question sets.

    Returns:
        Scores of the biased, the counter-biased and the unknown answer in nats, float64 on the CPU, ``[question, 3]``.

    Raises:
        InputError: if the batch was made for the other kind of model.
    """
    require_kind(model, batch["rule"])
    tokens = batch["tokens"].cpu()  # [question, wording, 3]
    sums = torch.zeros(tokens.numel(), dtype=torch.float64)
    if batch["rule"] == "causal":
        asked: dict[int, tuple[list[int], int]] = {}
        for group in batch["inputs"]:
            input_ids, position = group["input_ids"].tolist(), group["position"].tolist()
            for answer, row in zip(group["candidate"].tolist(), group["row"].tolist(), strict=True):
                asked[answer] = input_ids[row], len(input_ids[row]) - 1 - position[row]
        texts, counts = zip(*(asked[answer] for answer in range(len(sums))), strict=True)
        sums = torch.stack([values.sum() for values in ending_log_probabilities(model, texts, counts)])
    else:
        for group in batch["inputs"]:
            logs = slot_log_probabilities(model, group["input_ids"], group["position"])
            nats = logs[group["row"], group["target_ids"]]
            sums.index_add_(0, group["candidate"].cpu(), nats.cpu().double())
    return torch.div(sums.view(tokens.shape), tokens).mean(1)


class BBQ(Scored):
    """Accuracy and bias score on a :class:`biaslab.data.bbq.BBQDataModule`, overall and by category.

    The overall result is the unweighted mean over the categories. Intervals resample templates with all their variants.

    A model that is always right has no bias, except for six templates whose contexts point one way: over all questions,
    its s_DIS is 8.1 in Physical_appearance, 2.1 in SES and 1.3 in Disability_status. A model that ignores the question,
    as small models do, gives the same answer to both polarities; its accuracy is low and its bias near 0.
    """

    name, columns, counted = "bbq", 3, "questions"

    def __init__(self, data: Any) -> None:
        super().__init__(data, data.questions, [question.category for question in data.questions])
        templates = [(question.category, question.template) for question in data.questions]
        numbers = {each: number for number, each in enumerate(dict.fromkeys(templates))}
        self.templates = torch.tensor([numbers[each] for each in templates])
        self.categories = torch.tensor([data.category_names.index(question.category) for question in data.questions])
        self.right = torch.tensor([question.right for question in data.questions])
        self._facts |= {"templates": len(numbers), "left_out": data.left_out}

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return :func:`score_answers`, ``[question, 3]``."""
        return score_answers(model, batch)

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return accuracy and bias score in ambiguous and disambiguated contexts, by category, with resamples."""
        right, templates, categories = (each[examples] for each in (self.right, self.templates, self.categories))
        questions = Questions(scores, right, templates, categories, examples)
        values, resamples = bbq_scores(questions), bbq_bootstrap(questions)
        known = ~values.isnan()
        return {
            name: Samples(values[known[:, place], place], resamples[:, known[:, place], place])
            for place, name in enumerate(NAMES)
            if known[:, place].any()
        }
