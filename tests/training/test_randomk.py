"""Random-k: what it sends, that nothing is lost in its memory, and that a resumed run goes on alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from group import run_group

from distsqz.errors import InvalidValue
from distsqz.strategies.all_reduce.options import AllReduceOptions
from distsqz.strategies.all_reduce.strategy import AllReduce
from distsqz.training.options import TrainingOptions
from distsqz.training.plan import plan_session

MODEL = "small_models:small_net"


def options(**changes: Any) -> TrainingOptions:
    plain = {"image_size": 32, "num_classes": 10, "batch_size": 4, "steps": 6, "warmup_steps": 0, "lr": 0.02}
    return TrainingOptions(**(plain | {"threads": 1, "evaluate": "never", "checkpoint_every": 3} | changes))


def strategy(share: float) -> AllReduce:
    return AllReduce(AllReduceOptions(compressor="randomk", randomk_share=share))


def flat(model: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in model.values()])


def test_it_sends_its_share_and_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    plan, (entry,) = plan_session([MODEL], 2, options(), [strategy(0.1)])
    boxes = run_group(plan, 2, tmp_path)
    assert [box.error for box in boxes] == [None, None]
    assert entry["sent_payload_bytes"] == pytest.approx(0.1 * entry["payload_bytes"], rel=0.02)
    for box in boxes:
        assert {step.logical_tx_bytes for step in box.steps()} == {entry["sent_payload_bytes"]}
    box = boxes[0]
    saved = tmp_path / "step-3.pt"
    saved.write_bytes(box.checkpoint(3).to_bytes())
    (tmp_path / "rest").mkdir()
    rest, _ = plan_session([MODEL], 2, options(), [strategy(0.1)], resume=saved)
    (resumed, _) = run_group(rest, 2, tmp_path / "rest")
    assert resumed.error is None
    assert torch.equal(flat(box.checkpoint(6).model), flat(resumed.checkpoint(6).model))


def test_all_elements_are_the_uncompressed_training(tmp_path: Path) -> None:
    trained = []
    for index, each in enumerate((AllReduce(), strategy(1.0))):
        (tmp_path / str(index)).mkdir()
        plan, _ = plan_session([MODEL], 2, options(), [each])
        (box, _) = run_group(plan, 2, tmp_path / str(index))
        assert box.error is None
        trained.append(flat(box.checkpoint(6).model))
    assert (trained[0] - trained[1]).norm() <= 1e-6 * trained[0].norm()


def test_what_is_not_sent_is_kept_and_sent_later() -> None:
    """Over one rank, what has been sent and what is kept add up to all gradients there were."""
    hook = RandomKAlone(share=0.25)
    gradients = [torch.randn(40, generator=torch.Generator().manual_seed(step)) for step in range(5)]
    sent = sum((hook.send(gradient) for gradient in gradients), torch.zeros(40))
    assert torch.allclose(sent + hook.kept(), torch.stack(gradients).sum(0), atol=1e-6)


class RandomKAlone:
    """The hook on a bucket of one parameter, with a group of one rank."""

    def __init__(self, share: float) -> None:
        self.parameter = torch.nn.Parameter(torch.zeros(40))
        compressor = AllReduceOptions(compressor="randomk", randomk_share=share).made_compressor()
        self.hook = compressor.hook(["weight"], [self.parameter])

    def send(self, gradient: torch.Tensor) -> torch.Tensor:
        bucket = Bucket(self.parameter, gradient.clone())
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            return self.hook(bucket).wait().clone()
        finally:
            torch.distributed.destroy_process_group()

    def kept(self) -> torch.Tensor:
        return self.hook.state()["errors"]["weight"]


class Bucket:
    """What a hook reads of DDP's bucket."""

    def __init__(self, parameter: torch.nn.Parameter, gradient: torch.Tensor) -> None:
        self._parameter, self._gradient = parameter, gradient

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self._parameter]

    def gradients(self) -> list[torch.Tensor]:
        return [self._gradient]

    def buffer(self) -> torch.Tensor:
        return self._gradient

    def is_last(self) -> bool:
        return True


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"randomk_share 0\.0: must be above 0 and at most 1"):
        AllReduceOptions(randomk_share=0.0)
