"""Multiply-accumulates of operations, against figures by hand, on the CPU and on the meta device alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distsqz.models.operations import Work, count_operations


def work_of(run: Callable[[Tensor], object], shape: tuple[int, ...], device: str) -> Work:
    image = torch.zeros(shape, device=device)
    with torch.device(device), count_operations(image) as counter:
        run(image)
    return counter.work


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("run", "shape", "macs"),
    [
        (lambda x: F.conv2d(x, torch.zeros(5, 3, 2, 2)), (1, 3, 8, 8), 5 * 7 * 7 * 3 * 2 * 2),
        (lambda x: F.conv2d(x, torch.zeros(6, 1, 3, 3), groups=3), (1, 3, 8, 8), 6 * 6 * 6 * 1 * 3 * 3),
        (
            lambda x: F.conv_transpose2d(x, torch.zeros(3, 5, 2, 2), stride=2),
            (1, 3, 8, 8),
            8 * 8 * 3 * 5 * 2 * 2,
        ),
        (
            lambda x: F.conv_transpose2d(x, torch.zeros(4, 5, 2, 2), groups=2),
            (1, 4, 8, 8),
            8 * 8 * 4 * 5 * 2 * 2,
        ),
        (lambda x: F.linear(x, torch.zeros(5, 3), torch.zeros(5)), (1, 7, 3), 7 * 5 * 3),
        (lambda x: F.linear(x.transpose(1, 2), torch.zeros(5, 7), torch.zeros(5)), (1, 7, 3), 3 * 5 * 7),
        (lambda x: x @ x.transpose(1, 2), (2, 7, 3), 2 * 7 * 7 * 3),
        (lambda x: torch.baddbmm(x, x, torch.zeros(2, 3, 3)), (2, 7, 3), 2 * 7 * 3 * 3),
        (lambda x: torch.einsum("bqd,bkd->bqk", x, x), (2, 7, 3), 2 * 7 * 7 * 3),
        (lambda x: x @ torch.zeros(3), (1, 7, 3), 7 * 3),
        (lambda x: torch.dot(x, x), (7,), 7),
        (lambda x: torch.addmv(torch.zeros(7), x, torch.zeros(3)), (7, 3), 7 * 3),
        (lambda x: F.scaled_dot_product_attention(x, x, x), (1, 4, 7, 3), 2 * 4 * 7 * 7 * 3),
        (nn.LSTM(3, 5, batch_first=True, bidirectional=True), (1, 7, 3), 2 * 7 * 4 * 5 * (3 + 5)),
        (nn.GRU(3, 5, num_layers=2, batch_first=True), (1, 7, 3), 7 * 3 * 5 * (3 + 5) + 7 * 3 * 5 * (5 + 5)),
        (nn.RNNCell(3, 5), (1, 3), 5 * (3 + 5)),
    ],
)
def test_products_count_each_multiplication_once(
    run: Callable[[Tensor], object], shape: tuple[int, ...], macs: int, device: str
) -> None:
    work = work_of(run.to(device) if isinstance(run, nn.Module) else run, shape, device)
    assert (work.macs, work.not_understood) == (macs, set())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "run",
    [
        *[nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(8), nn.InstanceNorm2d(4), nn.RMSNorm(8)],
        *[
            nn.LocalResponseNorm(3),
            nn.Softmax(1),
            nn.LogSoftmax(1),
            nn.PReLU(),
            nn.GELU(),
            nn.GLU(1),
            nn.SiLU(),
        ],
        *[
            nn.MaxPool2d(2),
            nn.AvgPool2d(2),
            nn.AdaptiveAvgPool2d(3),
            nn.AdaptiveMaxPool2d(3),
            nn.LPPool2d(2, 2),
        ],
        *[nn.Upsample(scale_factor=2), nn.UpsamplingBilinear2d(scale_factor=2), nn.PixelShuffle(2)],
        *[nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.CircularPad2d(1), nn.Unfold(3), nn.ChannelShuffle(2)],
        lambda x: torch.cat([x, x.flip(1), x.roll(1)]).repeat(1, 2, 1, 1)[:, ::2].contiguous().half(),
        lambda x: (x.sum(), x.mean(1), x.std(), x.norm(), x.amax(1), x.max(1), x.topk(2), x.cumsum(1)),
        lambda x: F.embedding(x.argmax(1), torch.zeros(4, 4)) + torch.arange(4).float(),
        lambda x: x.masked_fill(x > 0, 0).tril().gather(1, torch.zeros(1, 1, 1, 1, dtype=torch.long)),
    ],
)
def test_other_known_operations_multiply_and_accumulate_nothing(
    run: Callable[[Tensor], object], device: str
) -> None:
    work = work_of(run.eval().to(device) if isinstance(run, nn.Module) else run, (1, 4, 8, 8), device)
    assert (work.macs, work.not_understood) == (0, set())


@pytest.mark.parametrize(
    ("run", "operation"),
    [
        (lambda x: F.bilinear(x, x, torch.zeros(2, 8, 8)), "aten::_trilinear"),
        (torch.fft.fft, "aten::_fft_r2c"),
        (lambda x: torch.cdist(x, x), "aten::_cdist_forward"),
        (lambda x: torch.addbmm(x[0], x, x), "aten::addbmm"),
        (lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), "cond"),
    ],
)
def test_an_operation_without_a_formula_is_named(run: Callable[[Tensor], object], operation: str) -> None:
    assert work_of(run, (1, 8, 8), "cpu").not_understood == {operation}


def test_a_custom_operation_is_named_and_a_custom_function_of_known_operations_is_counted() -> None:
    @torch.library.custom_op("distsqz_test::double", mutates_args=())
    def double(x: Tensor) -> Tensor:
        return x * 2

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: object, x: Tensor) -> Tensor:
            return x @ x

    assert work_of(double, (1, 8, 8), "cpu").not_understood == {"distsqz_test::double"}
    assert work_of(Square.apply, (8, 8), "meta").macs == 8 * 8 * 8


def test_products_of_two_activations_are_not_those_of_weights() -> None:
    def attend(x: Tensor) -> Tensor:
        weight = torch.zeros(3, 3) * 2  # computed, but not from the image
        queries = x @ weight
        queries[:, 0] = x[:, 1]
        return torch.baddbmm(torch.zeros(7, 7), queries, x.transpose(1, 2))

    work = work_of(attend, (1, 7, 3), "meta")
    assert (work.macs, work.weight_macs) == (7 * 3 * 3 + 7 * 7 * 3, 7 * 3 * 3)


def test_counting_leaves_pytorchs_settings_as_they_were() -> None:
    def settings() -> tuple[bool, ...]:
        return (
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.mkldnn.enabled,
            torch.backends.cuda.flash_sdp_enabled(),
            torch.is_grad_enabled(),
        )

    before = settings()
    with pytest.raises(RuntimeError):
        work_of(lambda x: x @ torch.zeros(2, 2), (1, 3), "cpu")
    assert settings() == before
