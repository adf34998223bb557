"""Gradients go up a binomial tree of workers, which adds them, and their sums come down.

Source: Iandola et al., "FireCaffe: Near-Linear Acceleration of Deep Neural Network Training on Compute
Clusters" (2016), section 5: log2(n) sends one after the other, against n for a single parameter server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distsqz.strategies.reduction_tree.tree import children_of, parent_of
from distsqz.strategies.strategy import RECV, SEND, Sent, Strategy
from distsqz.theory.placement import Placement, rank_name


class ReductionTree(Strategy):
    """Reduce and broadcast over a binomial tree, once the backward pass has ended."""

    name = "reduction_tree"
    title = "reduction tree"
    abbreviation = "tree"
    worker = "distsqz.strategies.reduction_tree.worker:TreeReplica"
    is_full_duplex = False  # sums come down when all gradients have gone up

    def planned(self, payload_bytes: int, rank: int, placement: Placement) -> Sequence[Sent]:
        """Gradients from each child and to the parent, and sums the other way."""
        world_size, parent = len(placement.workers), parent_of(rank)
        below, above = (SEND, RECV), (RECV, SEND)
        ways = [(below, child) for child in children_of(rank, world_size)]
        ways += [(above, parent)] if parent is not None else []
        return [Sent(op, payload_bytes, rank_name(peer)) for ops, peer in ways for op in ops]

    def handed_over_bytes(self, entry: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Unknown without the rank: one sends its gradients once, and the sums to each child."""
        return
