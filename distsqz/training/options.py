"""What a user may choose about training a model; the same for every command that trains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from distsqz.errors import RequestError, require_at_least
from distsqz.sync.consistency import Consistency, Mode

Placement = Literal["colocated", "dedicated"]


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The parameter server that a model is trained through."""

    servers: int | None = None
    """Shards that the parameters are split over; by default one a host of workers, or 1 if dedicated."""
    placement: Placement = "colocated"
    """colocated: shards on the workers' hosts; dedicated: on hosts of their own, if there are several."""
    consistency: Mode = "sync"
    """sync: one update from all gradients; async: one from each, at once; ssp: likewise, but no worker runs
    more than --staleness steps ahead of the slowest."""
    staleness: int = 0
    """For ssp: steps that a worker may be ahead of the slowest."""
    backup_workers: int = 0
    """For sync: so many of the gradients an update does not wait for; they are dropped when they come."""
    restarts: int = 3
    """How often workers or servers that die are started again (not beside data-parallel cells)."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        require_at_least(self, {"servers": 1, "staleness": 0, "backup_workers": 0, "restarts": 0})
        if self.staleness and self.consistency != "ssp":
            raise RequestError(f"--staleness {self.staleness}: is for --consistency ssp")
        if self.backup_workers and self.consistency != "sync":
            raise RequestError(f"--backup-workers {self.backup_workers}: is for --consistency sync")

    @property
    def shards(self) -> int:
        """How many servers there are, once that is settled."""
        assert self.servers is not None
        return self.servers

    @property
    def agreement(self) -> Consistency:
        """What the shards promise."""
        return Consistency(
            mode=self.consistency, staleness=self.staleness, backup_workers=self.backup_workers
        )

    def check(self, workers: int) -> None:
        """Raises RequestError where it does not go with so many workers."""
        if self.backup_workers >= workers:
            raise RequestError(
                f"--backup-workers {self.backup_workers}: must be below --workers {workers}, "
                "or no gradient would count"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How each model is trained."""

    data: str = "synthetic"
    """synthetic, fashion-mnist[:DIR], cifar10:DIR or imagefolder:PATH."""
    image_size: int | None = None
    """Height and width of an image in pixels; by default what the model was made for (224 for most)."""
    num_classes: int | None = None
    """Outputs of the model; by default as many as the data set has classes. Synthetic images have as many
    classes as a model of your own has outputs by itself, else 1000."""
    squeeze_ratio: float | None = None
    """SqueezeNet's squeeze ratio, if not the paper's 0.125."""
    pct_3x3: float | None = None
    """SqueezeNet's share of 3x3 filters among the expand filters, if not the paper's 0.5."""
    batch_size: int = 16
    """Images a worker takes in each step."""
    steps: int = 20
    """Measured steps, counted from the start of training; ignored where --epochs is given."""
    warmup_steps: int = 5
    """Steps before measuring begins; they train, and reports leave them out."""
    epochs: int | None = None
    """Passes over the training images, warm-up steps included; instead of --steps."""
    block_steps: int | None = None
    """Steps a model takes before the next has its turn; by default a tenth of --steps, at most 50."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes under autocast; parameters and gradients stay fp32."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory order of images and filters; auto: on for models with 2-D convolutions, which it speeds up,
    unless they cannot be trained so."""
    bucket_mb: float | None = None
    """Gradients are sent in buckets of about this many MiB; by default DDP's own: 1 first, then 25 each.
    For all-reduce: a parameter server cuts its chunks itself."""
    find_unused_parameters: bool = False
    """Lets all-reduce train models some of whose parameters have no gradient in a step. DDP then sends 4 more
    bytes for each parameter tensor in a step. A parameter server trains such models in any case."""
    threads: int | None = None
    """Compute threads a worker; by default its host's cores divided by the workers there."""
    seed: int = 0
    """Seed of initial parameters (drawn by torch, numpy or random), order of images, flips and dropout."""
    lr: float | None = None
    """Learning rate; by default the model's recipe, scaled to the global batch."""
    lr_warmup_steps: int = 0
    """Steps over which the learning rate rises from near zero to its full value."""
    evaluate: Literal["never", "epoch", "end"] = "epoch"
    """When accuracy on the validation images is measured: after each full epoch, or once at the end."""
    checkpoint_every: int = 0
    """Save a checkpoint every so many steps, and one at the end; 0: none."""
    loader_workers: int | None = None
    """Processes a worker that decode images; by default 2 for image folders, 0 for sets held in memory."""
    metered: bool = True
    """Whether bytes are counted; --no-metered takes step times only, which shows what measuring costs."""

    def __post_init__(self) -> None:
        """Raises RequestError for a value out of range."""
        counts = ("image_size", "num_classes", "batch_size", "steps", "epochs", "block_steps", "threads")
        others = ("warmup_steps", "seed", "lr_warmup_steps", "checkpoint_every", "loader_workers")
        require_at_least(self, dict.fromkeys(counts, 1) | dict.fromkeys(others, 0))
        if self.seed >= 2**63:
            raise RequestError(f"--seed {self.seed}: must be below 2**63")
        for option, value in (("--lr", self.lr), ("--bucket-mb", self.bucket_mb)):
            if value is not None and not 0 < value < math.inf:
                raise RequestError(f"{option} {value}: must be a number above 0")

    @property
    def block(self) -> int:
        """Steps a model takes before another takes its turn."""
        return self.block_steps or min(50, max(1, self.steps // 10))
