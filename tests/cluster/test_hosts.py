"""Hosts of a Ray cluster are told apart by their addresses, whatever their names."""

from __future__ import annotations

from typing import Any

from distsqz.cluster.hosts import host_labels


def node(name: str, address: str, alive: bool = True) -> dict[str, Any]:
    """A node as `ray.nodes()` lists it."""
    return {"NodeManagerHostname": name, "NodeManagerAddress": address, "Alive": alive}


def test_a_host_is_called_by_its_name() -> None:
    assert host_labels([node("a", "10.0.0.1"), node("b", "10.0.0.2")]) == {"10.0.0.1": "a", "10.0.0.2": "b"}


def test_cloned_machines_of_one_name_have_different_labels() -> None:
    labels = host_labels([node("a", "10.0.0.1"), node("a", "10.0.0.2"), node("b", "10.0.0.3")])
    assert labels == {"10.0.0.1": "a@10.0.0.1", "10.0.0.2": "a@10.0.0.2", "10.0.0.3": "b"}


def test_two_nodes_at_one_address_are_one_host() -> None:
    assert host_labels([node("a", "10.0.0.1"), node("a", "10.0.0.1")]) == {"10.0.0.1": "a"}


def test_a_label_stays_when_another_host_of_the_name_dies() -> None:
    labels = host_labels([node("a", "10.0.0.1", alive=False), node("a", "10.0.0.2")])
    assert labels["10.0.0.2"] == "a@10.0.0.2"
