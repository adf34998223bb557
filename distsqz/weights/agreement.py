"""How far a network's answers are from another's: divergence, agreement, accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of two networks over the same images; means, and shares between 0 and 1."""

    divergence_nats: float
    """KL divergence of the second network's probabilities from the first's, a mean over images."""
    same_top1: float
    top1: float
    """Share of images whose label the second network ranks first."""
    top5: float
    reference_top1: float
    """Likewise of the first network."""
    reference_top5: float


@torch.no_grad()
def logits_of(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Logits [n, classes] of all batches of images, in evaluation mode."""
    model.eval()
    return torch.cat([model(batch.contiguous(memory_format=torch.channels_last)) for batch in batches])


def divergences(reference: Tensor, logits: Tensor) -> Tensor:
    """KL divergence of each image's probabilities from the reference's, in nats, from logits [n, classes]."""
    expected, found = reference.double().log_softmax(1), logits.double().log_softmax(1)
    return (expected.exp() * (expected - found)).sum(1)


def agreement(reference: Tensor, logits: Tensor, labels: Tensor) -> Agreement:
    """Of logits [n, classes] with a reference's, for images with `labels` [n]."""
    return Agreement(
        divergence_nats=divergences(reference, logits).mean().item(),
        same_top1=(reference.argmax(1) == logits.argmax(1)).float().mean().item(),
        top1=top_k_accuracy(logits, labels, 1),
        top5=top_k_accuracy(logits, labels, 5),
        reference_top1=top_k_accuracy(reference, labels, 1),
        reference_top5=top_k_accuracy(reference, labels, 5),
    )


def top_k_accuracy(logits: Tensor, labels: Tensor, among: int) -> float:
    """Share of images whose label is among the so many highest logits."""
    highest = logits.topk(min(among, logits.shape[1]), dim=1).indices
    return (highest == labels[:, None]).any(1).float().mean().item()
