"""How much faster SqueezeNet steps are in channels_last and bf16 than in eager fp32, at equal loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.variants import by_variant, run_variants, step_ratio, told
from distsqz.cli.command import run_command
from distsqz.runs import Run
from distsqz.training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train on, and how long."""

    model: str = "squeezenet"
    """A name of the registry."""
    data: str = "fashion-mnist"
    """Images whose loss is compared."""
    image_size: int = 224
    """Height and width of an image in pixels."""
    batch_size: int = 16
    """Images a step."""
    steps: int = 60
    """Measured steps of each variant."""
    checkpoint: Path | None = None
    """Parameters to begin with, by default those of the seed."""
    threads: int = 1
    """Compute threads."""
    debug: bool = False
    """Print tracebacks."""


def main(options: Options) -> None:
    """Runs both variants in turn and prints the speed-up and the losses."""
    fast = TrainingOptions(
        data=options.data,
        image_size=options.image_size,
        batch_size=options.batch_size,
        steps=options.steps,
        warmup_steps=3,
        block_steps=2,
        threads=options.threads,
        precision="bf16",
        channels_last="on",
    )
    eager = replace(fast, precision="fp32", channels_last="off")
    variants = {"eager": eager, "fast": fast}
    run = run_variants("compute", options.model, variants, workers=1, checkpoint=options.checkpoint)
    cells = by_variant(run)
    speed_up = told(step_ratio(cells["eager"], cells["fast"]))
    print(f"{options.model}: eager fp32 over channels_last bf16 step time {speed_up}")
    eager_loss, fast_loss = (_late_loss(run, variant) for variant in ("eager", "fast"))
    print(
        f"{options.model}: mean loss of the last quarter, fast over eager "
        f"{fast_loss / eager_loss:.4f} ({fast_loss:.4f} / {eager_loss:.4f})"
    )


def _late_loss(run: Run, variant: str) -> float:
    """Mean loss over the last quarter of a variant's steps."""
    steps = run.table("steps").to_pandas()
    losses = steps[steps["cell"] == variant].sort_values("step")["loss"]
    return float(losses.tail(max(1, len(losses) // 4)).mean())


if __name__ == "__main__":
    run_command(main, Options, "Measure what channels_last and bf16 save, and that they cost no accuracy.")
