"""Accuracy and loss of a model on the validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.nn import functional as F


def count_correct(
    logits_of: Callable[[torch.Tensor], torch.Tensor], batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[int, int, float]:
    """Returns (number of images, correct answers, summed cross-entropy) over all batches."""
    seen, right, loss = 0, 0, 0.0
    with torch.no_grad():
        for images, labels in batches:
            logits = logits_of(images).float()
            answers = labels.to(logits.device)
            seen += len(labels)
            right += int((logits.argmax(1) == answers).sum())
            loss += float(F.cross_entropy(logits, answers, reduction="sum"))
    return seen, right, loss
