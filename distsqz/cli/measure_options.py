"""Options of the commands that measure, apart from torch, Ray and pandas, so that --help shows at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from distsqz.cli.network import NetworkOptions
from distsqz.cluster.options import SessionOptions
from distsqz.report.section import Format
from distsqz.training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options of every measuring command."""

    session: OmitArgPrefixes[SessionOptions] = field(default_factory=SessionOptions)
    training: OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)
    runs: Path = Path("runs")
    """Directory in which the run directory is made."""
    format: Format = "table"
    """Format of the report on stdout."""
    debug: bool = False
    """On an error, print Python's traceback as well as the message."""


@dataclass(frozen=True, kw_only=True)
class OneModelOptions(MeasureOptions):
    """Options of a measuring command that trains a single model."""

    model: str = "squeezenet"
    """Model: squeezenet, squeezenet1_1, squeezenet_simple_bypass, squeezenet_complex_bypass, alexnet,
    alexnet_bvlc, or package.module:factory for a model of your own."""
    checkpoint: Path | None = None
    """File of initial parameters: a published .pth, a .safetensors or an .sqz. Of an .sqz only the parameters
    are used."""
    resume: Path | None = None
    """Checkpoint to continue training from, or a run directory, whose newest checkpoint is taken."""
    network: OmitArgPrefixes[NetworkOptions] = field(default_factory=NetworkOptions)
