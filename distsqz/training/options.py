"""Options of training, shared by every command that trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from distsqz.errors import InvalidValue, require_at_least
from distsqz.runs.cell_spec import SAME_VALUES, rules

ONLY_OBSERVES = "it changes what is observed of training, not what is computed"
MORE_STEPS = "more steps make a median surer, not larger"
LENGTH = "a training may go on for longer than was planned"
SCHEDULE = "a learning rate may be lowered as training goes on"


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
            idle_in_baselines=True,
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
    """Learning rate; by default that of the model's recipe, scaled to the global batch size, and 0.001 for
    adam and adamw."""
    optimizer: Literal["sgd", "adam", "adamw"] = field(default="sgd", metadata=rules(label=""))
    """Optimizer: sgd with the momentum of the model's recipe, adam or adamw. A parameter server has sgd."""
    clip_norm: float | None = field(default=None, metadata=rules(label="clip", not_resumed=SCHEDULE))
    """Norm of all gradients together above which they are scaled down to it; by default never. Not with a
    parameter server."""
    micro_batches: int = field(default=1, metadata=rules(label="micro"))
    """Number of equal parts of a worker's batch that pass through the model one after the other. Gradients
    add up and are synchronised once, after the last. Not with a parameter server."""
    lr_warmup_steps: int = field(default=0, metadata=rules(label="lrwarmup", not_resumed=SCHEDULE))
    """Number of steps over which the learning rate rises from near zero to its full value."""
    evaluate: Literal["never", "epoch", "end"] = field(
        default="epoch", metadata=rules(idle_in_baselines=True, not_resumed=ONLY_OBSERVES)
    )
    """When accuracy on the validation images is measured: after each full epoch, or once at the end."""
    checkpoint_every: int = field(
        default=0, metadata=rules(label="every", idle_in_baselines=True, not_resumed=ONLY_OBSERVES)
    )
    """Number of steps between checkpoints; one more is saved at the end. 0: none."""
    loader_workers: int | None = field(default=None, metadata=rules(label="loaders", not_resumed=SAME_VALUES))
    """Number of processes of each worker that decode images; by default 2 for image folders, 0 for data in
    memory."""
    metered: bool = field(default=True, metadata=rules(idle_in_baselines=True, not_resumed=ONLY_OBSERVES))
    """Whether to count bytes. Without, only step times are measured, which shows what counting costs."""

    def __post_init__(self) -> None:
        """Checks the values; raises InvalidValue for one out of range."""
        counts = (
            "image_size",
            "num_classes",
            "batch_size",
            "steps",
            "epochs",
            "block_steps",
            "threads",
            "micro_batches",
        )
        others = ("warmup_steps", "seed", "lr_warmup_steps", "checkpoint_every", "loader_workers")
        require_at_least(self, dict.fromkeys(counts, 1) | dict.fromkeys(others, 0))
        if self.batch_size % self.micro_batches:
            raise InvalidValue(
                "micro_batches", self.micro_batches, f"must divide `batch_size={self.batch_size}`"
            )
        for name, value in (("lr", self.lr), ("clip_norm", self.clip_norm)):
            if value is not None and not 0 < value < math.inf:
                raise InvalidValue(name, value, "must be a number above 0")
        if self.seed >= 2**63:
            raise InvalidValue("seed", self.seed, "must be below 2**63")

    @property
    def block(self) -> int:
        """Steps that a cell makes before the next has its turn."""
        return self.block_steps or min(50, max(1, self.steps // 10))
