"""The subcommands of `distsqz`: each is the module of this folder that has its name."""

from __future__ import annotations

from collections.abc import Mapping

SUBCOMMANDS: Mapping[str, str] = {
    "ddp": "Train a model data-parallel over Ray and count every byte that it sends.",
    "ps": "Train a model through a parameter server over Ray and count every byte.",
    "train": "Train a model under any strategy, those of your own included, and count every byte.",
    "compare": "Train models side by side over Ray and report what synchronising each of them costs.",
    "report": "Report what runs measured: bytes, times, and what a smaller model saves.",
    "timeline": "Show what every rank did in a step: phases, transfers in flight, waiting.",
    "predict": "Predict, within bounds, what other networks and numbers of hosts would do to a step.",
    "runs": "List runs, or remove some.",
    "lab": "Emulate hosts and shaped links on this machine.",
    "deploy": "Send models from this host to clients on the hosts of Ray; measure what each costs.",
    "compress": "Compress a trained model into a small archive.",
    "evaluate": "Evaluate a model on labelled images, alone or in comparison with another.",
    "architecture": "Show the cost of a model layer by layer, in comparison with AlexNet.",
    "footprint": "Show which models fit into the on-chip memory of which devices.",
    "compression": "Compare an archive with tables 1 and 2 of the SqueezeNet paper.",
}
