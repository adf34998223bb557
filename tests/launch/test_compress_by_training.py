"""launch/compress.py --data: pruned, shared and trained into an archive."""

import numpy as np
import pytest

from distsqz.cli.compress import CalibrationOptions, Options, main
from distsqz.cli.train_compressed import CompressionTraining, compress_by_training, report
from distsqz.errors import RequestError
from distsqz.models.preprocessing import Preprocessing
from distsqz.weights.archive import decode, encode
from tests.weights.small_problem import INFO, small_model

OPTIONS = CompressionTraining(
    data="synthetic", image_size=8, density=0.3, bits=3, rounds=1, fine_tune_steps=2, share_steps=1
)


def test_the_archive_holds_the_weights_that_the_model_was_trained_to():
    model = small_model()
    trained = compress_by_training(model, INFO, OPTIONS)
    loaded = decode(encode(trained.model))
    assert loaded.info.preprocessing == Preprocessing(
        resize_to="square", resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1)
    )
    for name, tensor in model.state_dict().items():
        assert np.array_equal(loaded.state()[name], tensor.numpy())


def test_the_report_tells_bytes_and_densities():
    trained = compress_by_training(small_model(), INFO, OPTIONS)
    told = report(trained, len(encode(trained.model)), "markdown")
    assert "0.weight" in told
    assert f"{len(encode(trained.model)):,} bytes" in told


@pytest.mark.parametrize("calibrated", [True, False])
def test_either_calibration_or_training_is_asked_for(calibrated, tmp_path):
    options = Options(
        checkpoint=tmp_path / "w.pth",
        out=tmp_path / "m.sqz",
        by_calibration=CalibrationOptions(calibration=tmp_path if calibrated else None),
        by_training=CompressionTraining(data="synthetic" if calibrated else None),
    )
    with pytest.raises(RequestError, match=r"give either --calibration, .* or --data"):
        main(options)
