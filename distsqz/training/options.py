"""Options of training and of a parameter server, shared by every command that trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from distsqz.errors import InvalidValue, require_at_least
from distsqz.runs.cell_spec import rules
from distsqz.strategies.parameter_server.consistency import Consistency, Mode

Placement = Literal["colocated", "dedicated"]

DDP, PS, ALONE = "ddp", "ps", "alone"
"""The names of the strategies: all-reduce, parameter server, and the baseline of one worker by itself."""

SYNCHRONISED = (DDP, PS)
"""The strategies by which several workers agree. Options that only these have an effect on name them."""

SERVERS_START_ONCE = "the cells of a session share their servers, which are started once"
WHERE_SHARDS_ARE = "a checkpoint holds whole parameters, wherever their shards were"
SAME_VALUES = "it changes speed and rounding, not what is computed"
ONLY_OBSERVES = "it changes what is observed of training, not what is computed"
MORE_STEPS = "more steps make a median surer, not larger"
LENGTH = "a training may go on for longer than was planned"
SCHEDULE = "a learning rate may be lowered as training goes on"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of a parameter server."""

    servers: int | None = field(
        default=None,
        metadata=rules(shared=SERVERS_START_ONCE, not_resumed=WHERE_SHARDS_ARE),
    )
    """Number of shards over which parameters are split; by default one for each host of workers, or 1 if
    dedicated."""
    placement: Placement = field(
        default="colocated",
        metadata=rules(label="", shared=SERVERS_START_ONCE, not_resumed=WHERE_SHARDS_ARE),
    )
    """colocated: shards on the workers' hosts; dedicated: on hosts of their own, if there are several."""
    consistency: Mode = field(default="sync", metadata=rules(label=""))
    """sync: one update from all gradients; async: one from each, at once; ssp: the same, but no worker
    runs further ahead of the slowest than the staleness allows."""
    staleness: int = 0
    """For ssp: number of steps by which a worker may be ahead of the slowest."""
    backup_workers: int = field(default=0, metadata=rules(label="backup"))
    """For sync: number of gradients that an update does not wait for; they are dropped when they arrive."""
    restarts: int = field(
        default=3,
        metadata=rules(
            shared=SERVERS_START_ONCE, not_resumed="a checkpoint does not depend on what happens after it"
        ),
    )
    """How often workers or servers that die are started again (not in a session with all-reduce)."""

    def __post_init__(self) -> None:
        """Checks the values; raises InvalidValue for one out of range."""
        require_at_least(self, {"servers": 1, "staleness": 0, "backup_workers": 0, "restarts": 0})
        if self.staleness and self.consistency != "ssp":
            raise InvalidValue("staleness", self.staleness, "is for `consistency=ssp`")
        if self.backup_workers and self.consistency != "sync":
            raise InvalidValue("backup_workers", self.backup_workers, "is for `consistency=sync`")

    @property
    def shards(self) -> int:
        """Number of servers. It must have been set."""
        assert self.servers is not None
        return self.servers

    @property
    def agreement(self) -> Consistency:
        """The consistency that the shards guarantee."""
        return Consistency(
            mode=self.consistency, staleness=self.staleness, backup_workers=self.backup_workers
        )

    def check(self, workers: int) -> None:
        """Raises InvalidValue if the options do not suit this number of workers."""
        if self.backup_workers >= workers:
            raise InvalidValue(
                "backup_workers",
                self.backup_workers,
                f"must be below `workers={workers}`, or no gradient would count",
            )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of training."""

    data: str = field(
        default="synthetic",
        metadata=rules(not_resumed="its folder may have moved; the number of classes is compared"),
    )
    """Data set: synthetic, fashion-mnist[:DIR], cifar10:DIR or imagefolder:PATH."""
    image_size: int | None = field(default=None, metadata=rules(label="image", group="model"))
    """Height and width of an image in pixels; by default those that the model was designed for (224 for
    most)."""
    num_classes: int | None = field(default=None, metadata=rules(label="classes", group="model"))
    """Number of outputs of the model; by default the number of classes of the data set. For synthetic images
    it is the default of a model of your own, else 1000."""
    squeeze_ratio: float | None = field(default=None, metadata=rules(label="squeeze", group="model"))
    """SqueezeNet's squeeze ratio, if not the paper's 0.125."""
    pct_3x3: float | None = field(default=None, metadata=rules(label="pct", group="model"))
    """SqueezeNet's share of 3x3 filters among the expand filters, if not the paper's 0.5."""
    batch_size: int = field(default=16, metadata=rules(label="batch"))
    """Number of images for each worker in a step."""
    steps: int = field(default=20, metadata=rules(not_alike=MORE_STEPS, not_resumed=LENGTH))
    """Number of measured steps; ignored if epochs are given."""
    warmup_steps: int = field(default=5, metadata=rules(label="warmup", not_resumed=ONLY_OBSERVES))
    """Number of training steps before measuring begins; reports leave them out."""
    epochs: int | None = field(
        default=None,
        metadata=rules(
            strategies=SYNCHRONISED,
            not_alike="more steps make a median surer, not larger",
            not_resumed=LENGTH,
        ),
    )
    """Number of passes over the training images, warm-up steps included; given instead of a number of
    steps."""
    block_steps: int | None = field(default=None, metadata=rules(label="block", not_resumed=ONLY_OBSERVES))
    """Number of steps that a cell makes before the next one takes its turn; by default a tenth of the
    measured steps, at most 50."""
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata=rules(label=""))
    """bf16 computes under autocast; parameters and gradients stay fp32."""
    channels_last: Literal["auto", "on", "off"] = field(
        default="auto", metadata=rules(not_resumed=SAME_VALUES)
    )
    """Memory order of images and filters. auto: on for models with 2-D convolutions, which it speeds up,
    unless they cannot be trained that way."""
    bucket_mb: float | None = field(
        default=None,
        metadata=rules(label="bucket", group="strategy", strategies=("ddp",), not_resumed=SAME_VALUES),
    )
    """For all-reduce: size of a bucket of gradients in MiB; by default DDP's own, 1 for the first bucket and
    25 for the others."""
    find_unused_parameters: bool = field(
        default=False,
        metadata=rules(label="unused", group="strategy", strategies=("ddp",), not_resumed=SAME_VALUES),
    )
    """For all-reduce: train models with parameters that get no gradient in a step. DDP then sends 4 more
    bytes for each parameter tensor in a step. A parameter server always trains such models."""
    threads: int | None = field(
        default=None,
        metadata=rules(not_alike="threads_per_worker is what it came to", not_resumed=SAME_VALUES),
    )
    """Number of compute threads of each worker; by default its host's cores divided by the number of workers
    there."""
    seed: int = 0
    """Seed of initial parameters (drawn by torch, numpy or random), the order of images, flips and
    dropout."""
    lr: float | None = field(default=None, metadata=rules(not_resumed=SCHEDULE))
    """Learning rate; by default that of the model's recipe, scaled to the global batch size."""
    lr_warmup_steps: int = field(default=0, metadata=rules(label="lrwarmup", not_resumed=SCHEDULE))
    """Number of steps over which the learning rate rises from near zero to its full value."""
    evaluate: Literal["never", "epoch", "end"] = field(
        default="epoch", metadata=rules(strategies=SYNCHRONISED, not_resumed=ONLY_OBSERVES)
    )
    """When accuracy on the validation images is measured: after each full epoch, or once at the end."""
    checkpoint_every: int = field(
        default=0, metadata=rules(label="every", strategies=SYNCHRONISED, not_resumed=ONLY_OBSERVES)
    )
    """Number of steps between checkpoints; one more is saved at the end. 0: none."""
    loader_workers: int | None = field(default=None, metadata=rules(label="loaders", not_resumed=SAME_VALUES))
    """Number of processes of each worker that decode images; by default 2 for image folders, 0 for data in
    memory."""
    metered: bool = field(default=True, metadata=rules(strategies=SYNCHRONISED, not_resumed=ONLY_OBSERVES))
    """Whether to count bytes. Without, only step times are measured, which shows what counting costs."""

    def __post_init__(self) -> None:
        """Checks the values; raises InvalidValue for one out of range."""
        counts = ("image_size", "num_classes", "batch_size", "steps", "epochs", "block_steps", "threads")
        others = ("warmup_steps", "seed", "lr_warmup_steps", "checkpoint_every", "loader_workers")
        require_at_least(self, dict.fromkeys(counts, 1) | dict.fromkeys(others, 0))
        if self.seed >= 2**63:
            raise InvalidValue("seed", self.seed, "must be below 2**63")
        for name, value in (("lr", self.lr), ("bucket_mb", self.bucket_mb)):
            if value is not None and not 0 < value < math.inf:
                raise InvalidValue(name, value, "must be a number above 0")

    @property
    def block(self) -> int:
        """Steps that a cell makes before the next has its turn."""
        return self.block_steps or min(50, max(1, self.steps // 10))
