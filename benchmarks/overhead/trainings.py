"""The same training under Ray and under torchrun, as processes that can be stopped and set going."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from distsqz import open_run
from distsqz.errors import RequestError
from distsqz.runs.listing import newest_run
from distsqz.training.options import TrainingOptions

PLAIN = Path(__file__).with_name("plain_torchrun.py")
START_TIMEOUT_S = 120.0
ENDLESS = 1_000_000


class Training:
    """A training without end, and all processes that belong to it."""

    def __init__(self, command: Sequence[object], environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )

    def steps(self) -> NDArray[np.float64]:
        """Rank 0's steps so far: a row each of its start in ns since the epoch and its duration in s."""
        raise NotImplementedError

    def wait_for_steps(self) -> None:
        """Returns once it trains."""
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while len(self.steps()) == 0:
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"{self._process.args!r} did not begin to train")
            time.sleep(0.5)

    def send(self, number: signal.Signals) -> None:
        """Signals every process of it."""
        parent = psutil.Process(self._process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def end(self) -> None:
        """Ends it as Ctrl-C would."""
        if self._process.poll() is None:
            self.send(signal.SIGCONT)
            self._process.send_signal(signal.SIGINT)
        self._process.wait()


class RayTraining(Training):
    """`launch/ddp.py`, unmetered."""

    def __init__(self, model: str, workers: int, options: TrainingOptions, folder: Path) -> None:
        self._runs = folder
        command = ["launch/ddp.py", "--model", model, "--workers", workers, "--runs", folder]
        command += ["--image-size", options.image_size, "--batch-size", options.batch_size]
        command += ["--steps", ENDLESS, "--block-steps", ENDLESS, "--no-metered"]
        super().__init__(command)

    def steps(self) -> NDArray[np.float64]:
        """From its run directory."""
        try:
            steps = open_run(newest_run(self._runs)).table("steps").to_pandas()
        except RequestError:  # it has not begun to write
            return np.empty((0, 2))
        steps = steps[steps["rank"] == 0]
        return np.asarray(steps[["t_start_ns", "wall_s"]], dtype=np.float64)


class TorchrunTraining(Training):
    """`plain_torchrun.py`."""

    def __init__(
        self,
        model: str,
        workers: int,
        options: TrainingOptions,
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._output = folder / "torchrun.txt"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
        script = [PLAIN, model, options.image_size, options.batch_size, self._output]
        super().__init__([*launcher, *script], environment)

    def steps(self) -> NDArray[np.float64]:
        """From the file that rank 0 writes."""
        if not self._output.exists():
            return np.empty((0, 2))
        whole_lines = self._output.read_text().rpartition("\n")[0].splitlines()
        return np.array([line.split() for line in whole_lines], dtype=np.float64).reshape(-1, 2)
