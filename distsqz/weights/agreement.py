"""Comparison of the predictions of two networks: divergence, agreement, accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Comparison of a network with a reference over the same images. Shares are between 0 and 1."""

    divergence_nats: float
    """Mean over images of the KL divergence of the network's probabilities from the reference's, in nats."""
    same_top1: float
    """Share of images for which both networks rank the same class first."""
    top1: float
    """Share of images whose label the network ranks first."""
    top5: float
    """Share of images whose label is among the network's first five classes."""
    reference_top1: float
    """Share of images whose label the reference ranks first."""
    reference_top5: float
    """Share of images whose label is among the reference's first five classes."""


@torch.no_grad()
def logits_of(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Logits [n, classes] of all batches of images, in evaluation mode."""
    model.eval()
    return torch.cat([model(batch.contiguous(memory_format=torch.channels_last)) for batch in batches])


def divergences(reference: Tensor, logits: Tensor) -> Tensor:
    """KL divergence of each image from the reference, in nats: [n], from logits [n, classes]."""
    expected, actual = reference.double().log_softmax(1), logits.double().log_softmax(1)
    return (expected.exp() * (expected - actual)).sum(1)


def agreement(reference: Tensor, logits: Tensor, labels: Tensor) -> Agreement:
    """Compares logits [n, classes] with those of a reference, for images with labels int64 [n]."""
    return Agreement(
        divergence_nats=divergences(reference, logits).mean().item(),
        same_top1=(reference.argmax(1) == logits.argmax(1)).float().mean().item(),
        top1=top_k_accuracy(logits, labels, 1),
        top5=top_k_accuracy(logits, labels, 5),
        reference_top1=top_k_accuracy(reference, labels, 1),
        reference_top5=top_k_accuracy(reference, labels, 5),
    )


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of images whose label [n] is among the k highest of the logits [n, classes]."""
    highest = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (highest == labels[:, None]).any(1).float().mean().item()
