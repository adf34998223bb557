"""Trains one cell on one rank, step by metered step."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from distsqz.data import Split, evaluation_batches, steps_per_epoch, train_batches
from distsqz.errors import RunError
from distsqz.metering.meter import Instruments, StepMeter, StepSource
from distsqz.metering.schema import EvaluationRecord, StepRecord
from distsqz.models.recipes import Recipe
from distsqz.models.registry import recipe_for
from distsqz.sync.data_parallel import predict_bytes, replicate
from distsqz.training.cell import Cell
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.evaluation import judge
from distsqz.training.outbox import Outbox
from distsqz.training.replica import Replica


class Trainer:
    """One cell's replica of model, optimizer and data on this rank."""

    def __init__(
        self,
        cell: Cell,
        replica: Replica,
        instruments: Instruments,
        outbox: Outbox,
        weights: dict[str, Any] | None = None,
        resume: Checkpoint | None = None,
    ) -> None:
        """Builds everything, untimed.

        Args:
            cell: what to train.
            replica: this worker's place.
            instruments: what it is measured with.
            outbox: where records go.
            weights: initial parameters instead of the seed's.
            resume: where to go on from.
        """
        options = cell.options
        self.cell = cell
        self._replica = replica
        self._outbox = outbox
        self._device = torch.device(replica.device)
        module = cell.build()
        if resume:
            module.load_state_dict(resume.model)
        elif weights:
            module.load_state_dict(weights)
        self._memory_format = _memory_format(options.channels_last, module)
        module.to(self._device).to(memory_format=self._memory_format)  # type: ignore[call-overload]
        self._module = module
        self._model = replicate(module, instruments.transfers, options.bucket_mb)
        self._recipe = _recipe(cell)
        self._optimizer = torch.optim.SGD(
            module.parameters(),
            lr=self._recipe.lr,
            momentum=self._recipe.momentum,
            weight_decay=self._recipe.weight_decay,
            fused=True,
        )
        if resume:
            # A copy: the optimizer would go on in the very tensors it is given, which workers may share.
            self._optimizer.load_state_dict(copy.deepcopy(resume.optimizer))
        self._data = cell.open_data()
        self._steps_per_epoch = steps_per_epoch(self._data.train, replica.world_size, options.batch_size)
        self.step = resume.step if resume else 0
        self._measure_from = self.step + options.warmup_steps
        # A checkpoint counts the bytes of all ranks; rank 0 goes on from there for all of them.
        self._tx_bytes: int | None = resume.tx_bytes if resume and replica.rank == 0 else 0
        self._batches = train_batches(
            self._data.train,
            rank=replica.rank,
            world_size=replica.world_size,
            batch_size=options.batch_size,
            seed=options.seed,
            start_step=self.step,
            loader_workers=options.loader_workers,
        )
        self._meter = StepMeter(
            StepSource(
                cell=cell.name,
                model=cell.model,
                strategy=cell.strategy,
                world_size=replica.world_size,
                rank=replica.rank,
                host=replica.host,
                attempt=replica.attempt,
            ),
            instruments,
            predict_bytes,
        )

    @property
    def remaining(self) -> int:
        """Steps still to make."""
        return self.cell.total_steps - self.step

    def run(self, steps: int) -> None:
        """Makes `steps` steps, with whatever is due between them.

        Raises:
            RunError: a step failed; it names host, rank and step.
        """
        for _ in range(steps):
            try:
                self._train_step()
                self._after_step()
            except Exception as error:
                raise self._failure(error) from error
            self.step += 1

    def close(self) -> None:
        """Lets go of processes that decode images."""
        self._batches.close()

    def _train_step(self) -> None:
        """One optimizer update. Between the meter's `begin` and `end` nothing happens but training."""
        meter, optimizer = self._meter, self._optimizer
        optimizer.param_groups[0]["lr"] = self._lr()
        self._seed_dropout()
        meter.begin(self.step, warmup=self.step < self._measure_from)
        images, labels = next(self._batches)
        images, labels = self._to_device(images), labels.to(self._device)
        meter.lap("data")
        loss = F.cross_entropy(self._logits(self._model, images), labels)
        meter.lap("forward")
        # The hook sums gradients over the ranks: dividing the loss makes the sum their average.
        (loss / self._replica.world_size).backward()  # type: ignore[no-untyped-call]
        meter.lap("backward")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.lap("optimizer")
        meter.end()
        meter.record(samples=len(labels), loss=loss.item())
        self._send_records()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()}; a lower --lr (now {self._lr():g}) may help")

    def _seed_dropout(self) -> None:
        """Makes dropout's draws follow from seed, rank and step, so that a resumed run draws the same."""
        state = np.random.SeedSequence([self.cell.options.seed, self._replica.rank, self.step])
        torch.manual_seed(int(state.generate_state(1, np.uint64)[0]))

    def _to_device(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self._device, memory_format=self._memory_format)

    def _logits(self, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.cell.options.precision == "bf16"):
            logits: torch.Tensor = model(images)
        return logits.float()

    def _lr(self) -> float:
        rise = min(1.0, (self.step + 1) / (self.cell.options.lr_warmup_steps + 1))
        return rise * self._recipe.lr_at(self.step, self.cell.total_steps)

    def _after_step(self) -> None:
        """What is due after the step: judging, saving."""
        options, done = self.cell.options, self.step + 1
        at_end = done == self.cell.total_steps
        evaluates = (options.evaluate == "epoch" and done % self._steps_per_epoch == 0) or (
            options.evaluate == "end" and at_end
        )
        saves = options.checkpoint_every and (done % options.checkpoint_every == 0 or at_end)
        if evaluates and self._data.validation is not None:
            self._evaluate(self._data.validation, done)
        if saves:
            self._save(done)
        if evaluates or saves:
            dist.barrier()  # else the next step would count one rank's work here as communication

    def _send_records(self) -> None:
        records = self._meter.take()
        for record in records["steps"]:
            assert isinstance(record, StepRecord)
            if self._tx_bytes is None or record.tcp_tx_bytes is None:
                self._tx_bytes = None
            else:
                self._tx_bytes += record.tcp_tx_bytes
        self._outbox.put(records)

    def _all_tx_bytes(self) -> int | None:
        """TCP payload that all ranks have sent in steps so far."""
        sent = self._gather(self._tx_bytes)
        return None if None in sent else sum(sent)

    def _gather(self, mine: Any) -> list[Any]:
        gathered: list[Any] = [None] * self._replica.world_size
        dist.all_gather_object(gathered, mine)
        return gathered

    def _evaluate(self, validation: Split, done: int) -> None:
        """Accuracy and loss over all validation images, each rank judging its own share."""
        batches = evaluation_batches(
            validation,
            rank=self._replica.rank,
            world_size=self._replica.world_size,
            batch_size=max(64, self.cell.options.batch_size),
            loader_workers=self.cell.options.loader_workers,
        )
        self._module.eval()
        share = judge(lambda images: self._logits(self._module, self._to_device(images)), batches)
        self._module.train()
        seen, right, loss = (sum(parts) for parts in zip(*self._gather(share), strict=True))
        bytes_so_far = self._all_tx_bytes()
        if self._replica.rank == 0:
            evaluation = EvaluationRecord(
                cell=self.cell.name,
                step=done,
                samples_seen=done * self.cell.global_batch,
                bytes_so_far=bytes_so_far,
                accuracy=right / seen,
                loss=loss / seen,
            )
            self._outbox.put({"evaluations": [evaluation]})

    def _save(self, done: int) -> None:
        bytes_so_far = self._all_tx_bytes()
        if self._replica.rank == 0:
            checkpoint = Checkpoint(
                model_name=self.cell.model,
                num_classes=self.cell.num_classes,
                world_size=self.cell.world_size,
                batch_size=self.cell.options.batch_size,
                step=done,
                tx_bytes=bytes_so_far,
                model=self._module.state_dict(),
                optimizer=self._optimizer.state_dict(),
            )
            self._outbox.save(self.cell.name, done, checkpoint.to_bytes())

    def _failure(self, error: Exception) -> RunError:
        return RunError(
            f"{type(error).__name__}: {error}",
            cell=self.cell.name,
            host=self._replica.host,
            rank=self._replica.rank,
            step=self.step,
        )


def _memory_format(choice: str, module: nn.Module) -> torch.memory_format:
    convolutional = any(isinstance(part, nn.Conv2d) for part in module.modules())
    on = choice == "on" or (choice == "auto" and convolutional)
    return torch.channels_last if on else torch.contiguous_format


def _recipe(cell: Cell) -> Recipe:
    """The model's recipe, its learning rate scaled to the global batch unless the user gave one.

    Source of the linear scaling: Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.1.
    """
    recipe = recipe_for(cell.model)
    lr = cell.options.lr or recipe.lr * cell.global_batch / recipe.batch
    return replace(recipe, lr=lr)
