"""Trains one cell on one rank and meters every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from distsqz.data import evaluation_batches, steps_per_epoch, train_batches
from distsqz.errors import RunError
from distsqz.loading import load
from distsqz.metering.collectives import recorded_collectives
from distsqz.metering.meter import Instruments, StepMeter, StepSource
from distsqz.metering.schema import EvaluationRecord, StepRecord
from distsqz.metering.transfers import TransferLog
from distsqz.strategies.agreement import adopt_buffers_of_rank_0
from distsqz.strategies.optimizer import UpdateRule
from distsqz.strategies.parameter_server.worker import Servers
from distsqz.strategies.worker import Synchronizer, WorkerContext, account_of
from distsqz.training.cell import Cell
from distsqz.training.checkpoint import Checkpoint
from distsqz.training.evaluation import count_correct
from distsqz.training.outbox import Outbox
from distsqz.training.replica import Replica
from distsqz.training.seeding import seed_all


class Trainer:
    """Model, optimizer and data of one cell on this rank."""

    def __init__(
        self,
        cell: Cell,
        replica: Replica,
        instruments: Instruments,
        outbox: Outbox,
        weights: Mapping[str, Any] | None = None,
        resume: Checkpoint | None = None,
        servers: Servers | None = None,
    ) -> None:
        """Builds everything, untimed.

        Args:
            cell: what to train.
            replica: this worker's place.
            instruments: what it is measured with.
            outbox: where records go.
            weights: initial parameters instead of the seed's.
            resume: where to go on from.
            servers: the session's parameter server, for cells that train through one.
        """
        options = cell.options
        self.cell = cell
        self._replica = replica
        self._outbox = outbox
        self._device = torch.device(replica.device)
        module = cell.build_replica(weights, resume)
        module.to(self._device)
        self.step = resume.step if resume else 0
        if replica.joins:
            assert servers is not None
            self.step = servers.progress(cell.name, replica.rank)
        self._memory_format = cell.memory_format(module)
        self._module = module
        self._recipe = cell.recipe()
        self._transfers = instruments.transfers
        self._sync = self._join(instruments.transfers, resume, servers)
        self._servers = servers
        if not replica.joins:
            self._keep_buffers()
        if self._sync.peers and options.metered:
            instruments = replace(instruments, peers=self._sync.peers)
        self._data = cell.open_data()
        self._steps_per_epoch = steps_per_epoch(self._data.train, replica.world_size, options.batch_size)
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
                strategy=cell.strategy.name,
                world_size=replica.world_size,
                rank=replica.rank,
                host=replica.host,
                attempt=replica.attempt,
            ),
            instruments,
            account_of(cell.strategy, replica.rank, replica.placement),
        )
        self._follows = False
        """Whether nothing is in flight between the last step and the next."""
        self._continues = False
        """Whether the last step left transfers in flight."""
        self._unsettled: list[StepRecord] = []
        """Records of steps whose staleness is not known yet."""

    @property
    def remaining(self) -> int:
        """Number of steps that are left."""
        return self.cell.total_steps - self.step

    def _join(
        self, transfers: TransferLog | None, resume: Checkpoint | None, servers: Servers | None
    ) -> Synchronizer:
        """Opens the strategy's synchronisation with the other replicas."""
        cell, replica, recipe = self.cell, self._replica, self._recipe
        make: Callable[[nn.Module, WorkerContext], Synchronizer] = load(cell.strategy.worker)
        return make(
            self._module,
            WorkerContext(
                options=cell.strategy.options,
                cell=cell.name,
                rank=replica.rank,
                placement=replica.placement,
                attempt=replica.attempt,
                joins=replica.joins,
                address=replica.address,
                timeout_s=replica.timeout_s,
                step=self.step,
                rule=UpdateRule(
                    optimizer=cell.options.optimizer,
                    momentum=recipe.momentum,
                    weight_decay=recipe.weight_decay,
                    clip_norm=cell.options.clip_norm,
                ),
                optimizer=resume.optimizer if resume else None,
                state=resume.rank_states[replica.rank] if resume and resume.rank_states else None,
                transfers=transfers,
                servers=servers,
            ),
        )

    def _keep_buffers(self) -> None:
        """Stores rank 0's buffers on the servers, for workers that are replaced while the others go on."""
        if self._servers and not self.cell.together and self._replica.rank == 0:
            self._servers.keep_buffers(self.cell.name, dict(self._module.named_buffers()))

    def run(self, steps: int) -> None:
        """Makes `steps` steps, and what is due between them. No transfer is in flight afterwards.

        Raises:
            RunError: a step failed; it names host, rank and step.
        """
        until = self.step + steps
        self._follows = False
        with recorded_collectives(self._transfers):
            while self.step < until:
                self._make_step(until)

    def _make_step(self, until: int) -> None:
        """One step, and what is due after it; `until` is the step at which nothing may be in flight."""
        try:
            settle = any(self._due(self.step + 1)) or self.step + 1 == until
            self._train_step(settle)
            self._follows = not settle
            done = self._sync.next_step(self.step)
            evaluates, saves = self._due(done)
            if (saves or done >= self.cell.total_steps) and self.cell.together:
                self._sync.check()
            if (evaluates or saves) and self.cell.together:
                adopt_buffers_of_rank_0(self._module)
            if evaluates or saves:
                self._keep_buffers()
            if evaluates:
                self._evaluate(done)
            if saves:
                self._save(done)
        except Exception as error:
            raise self._failure(error) from error
        self.step = done

    def check(self) -> None:
        """Compares the state of all replicas, if they make their steps together.

        Raises:
            RunError: it is not the same; it names the parameter.
        """
        if self.cell.together:
            try:
                self._sync.check()
            except Exception as error:
                raise self._failure(error) from error

    def close(self) -> None:
        """Closes connections, and ends processes that decode images."""
        self._batches.close()
        self._sync.close()

    def _train_step(self, settle: bool) -> None:
        """One optimizer update. Between the meter's `begin` and `end` nothing happens but training."""
        meter, sync = self._meter, self._sync
        sync.begin(self.step, self._lr())
        self._seed_dropout()
        meter.begin(
            self.step,
            warmup=self.step < self._measure_from,
            follows=self._follows,
            continues=self._continues,
            meet=None if self._follows else self._meet,
        )
        images, labels = next(self._batches)
        images, labels = self._to_device(images), labels.to(self._device)
        meter.lap("data")
        loss = self._forward_and_backward(images, labels)
        sync.update(settle=settle)
        meter.lap("optimizer")
        self._continues = sync.under_way
        meter.end(self._meet if settle else None)
        meter.record(samples=len(labels), loss=loss.item())
        self._send_records()
        if settle:
            self._outbox.send()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()}; a lower `lr` (now {self._lr():g}) may help")

    def _forward_and_backward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Passes the batch through the model, micro-batch by micro-batch; the mean loss."""
        meter, sync, parts = self._meter, self._sync, self.cell.options.micro_batches
        total = torch.zeros((), device=self._device)
        for index, (part, of_part) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
            with sync.accumulating() if index + 1 < parts else nullcontext():
                loss = F.cross_entropy(self._logits(sync.model, part), of_part)
                meter.lap("forward")
                (loss / (sync.loss_divisor * parts)).backward()  # type: ignore[no-untyped-call]
                meter.lap("backward")
            total = loss.detach() if parts == 1 else total + loss.detach() / parts
        return total

    def _meet(self) -> None:
        """Waits for the other ranks, if all make their steps together."""
        if self.cell.together:
            dist.barrier()

    def _seed_dropout(self) -> None:
        """Makes dropout's draws follow from seed, rank and step, so that a resumed run draws the same."""
        state = np.random.SeedSequence([self.cell.options.seed, self._replica.rank, self.step])
        seed_all(int(state.generate_state(1, np.uint64)[0]))

    def _to_device(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self._device, memory_format=self._memory_format)

    def _logits(self, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.cell.options.precision == "bf16"):
            logits: torch.Tensor = model(images)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _lr(self) -> float:
        rise = min(1.0, (self.step + 1) / (self.cell.options.lr_warmup_steps + 1))
        return rise * self._recipe.lr_at(self.step, self.cell.total_steps)

    def _due(self, done: int) -> tuple[bool, bool]:
        """Evaluates and saves, if that is due after `done` updates."""
        options = self.cell.options

        def passes(every: int) -> bool:
            return done // every > self.step // every  # a worker that is left behind skips some

        at_end = done >= self.cell.total_steps
        evaluates = (options.evaluate == "epoch" and passes(self._steps_per_epoch)) or (
            options.evaluate == "end" and at_end
        )
        saves = options.checkpoint_every > 0 and (passes(options.checkpoint_every) or at_end)
        return evaluates and self._data.validation is not None, saves

    def _send_records(self) -> None:
        records = self._meter.take()
        for record in records["steps"]:
            assert isinstance(record, StepRecord)
            if self._tx_bytes is None or record.tcp_tx_bytes is None:
                self._tx_bytes = None
            else:
                # What a worker pulls, a server sends.
                pulled = record.tcp_rx_bytes if self.cell.strategy.has_servers else 0
                self._tx_bytes += record.tcp_tx_bytes + (pulled or 0)
            self._unsettled.append(record)
        self._outbox.put({**records, "steps": self._settled()})

    def _settled(self) -> list[StepRecord]:
        """Records of the steps whose staleness has become known."""
        settled = []
        while self._unsettled:
            staleness = self._sync.staleness(self._unsettled[0].step)
            if staleness is None:
                break
            settled.append(replace(self._unsettled.pop(0), staleness=staleness))
        return settled

    def _all_tx_bytes(self) -> int | None:
        """TCP payload that ranks and servers have sent in steps so far; None if ranks make steps on their
        own.
        """
        if not self.cell.together:
            return None
        sent = self._gather(self._tx_bytes)
        return None if None in sent else sum(sent)

    def _gather(self, mine: Any) -> list[Any]:
        """Values of all ranks; only this rank's if ranks make steps on their own."""
        if not self.cell.together:
            return [mine]
        gathered: list[Any] = [None] * self._replica.world_size
        dist.all_gather_object(gathered, mine)
        return gathered

    def _evaluate(self, done: int) -> None:
        """Accuracy and loss over all validation images. Each rank evaluates its share, or rank 0 evaluates
        all.
        """
        assert self._data.validation is not None
        if not self.cell.together and self._replica.rank != 0:
            return
        batches = evaluation_batches(
            self._data.validation,
            rank=self._replica.rank,
            world_size=self._replica.world_size if self.cell.together else 1,
            batch_size=max(64, self.cell.options.batch_size),
            loader_workers=self.cell.options.loader_workers,
        )
        self._module.eval()
        share = count_correct(lambda images: self._logits(self._module, self._to_device(images)), batches)
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
        states = self._gather(self._sync.rank_state())
        if self._replica.rank == 0:
            checkpoint = Checkpoint(
                model_name=self.cell.model,
                num_classes=self.cell.num_classes,
                world_size=self.cell.world_size,
                batch_size=self.cell.options.batch_size,
                seed=self.cell.options.seed,
                step=done,
                tx_bytes=bytes_so_far,
                model=self._module.state_dict(),
                optimizer=self._sync.optimizer_state(),
                rank_states=states if any(states) else None,
                preprocessing=asdict(self.cell.preprocessing) if self.cell.preprocessing else None,
                options=self.cell.spec.resume_key(),
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
