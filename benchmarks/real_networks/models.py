"""Image classifiers of the transformers library, small and with random weights.

Each is named as a user names an own model, `benchmarks.real_networks.models:resnet`; `resnet_fp64` is the
same network in double precision. Dropout and drop-path are on where a network has them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

IMAGE_SIZE = 32
"""Height and width, in pixels, of the images that the networks are made for."""

FP64 = "_fp64"
"""Ending of the names of networks in double precision."""

_TRANSFORMER: dict[str, Any] = {
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
_WINDOWS: dict[str, Any] = {
    "image_size": IMAGE_SIZE,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2, 2],
    "num_heads": [2, 2, 4],
    "window_size": 4,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "drop_path_rate": 0.2,
}
_BEIT: dict[str, Any] = {
    **_TRANSFORMER,
    "use_relative_position_bias": True,
    "drop_path_rate": 0.2,
    "out_indices": [0, 1, 2, 3],
}
_DINO: dict[str, Any] = {
    **{key: value for key, value in _TRANSFORMER.items() if key != "intermediate_size"},
    "mlp_ratio": 2,
    "drop_path_rate": 0.2,
}
_PYRAMID: dict[str, Any] = {
    "image_size": IMAGE_SIZE,
    "depths": [1, 1, 2, 1],
    "hidden_sizes": [16, 16, 32, 32],
    "num_attention_heads": [1, 2, 2, 4],
    "mlp_ratios": [2, 2, 2, 2],
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "drop_path_rate": 0.2,
}
_STAGES: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 2, 1, 1]}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "resnet": _STAGES,
    "regnet": {**_STAGES, "groups_width": 16},
    "bit": {**_STAGES, "num_groups": 8, "drop_path_rate": 0.2},
    "convnext": {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 2, 1], "drop_path_rate": 0.2},
    "convnextv2": {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 2, 1], "drop_path_rate": 0.2},
    "mobilenet_v1": {"depth_multiplier": 0.25, "classifier_dropout_prob": 0.2},
    "mobilenet_v2": {"depth_multiplier": 0.25, "classifier_dropout_prob": 0.2},
    "efficientnet": {
        "width_coefficient": 0.5,
        "depth_coefficient": 0.5,
        "hidden_dim": 640,
        "dropout_rate": 0.2,
    },
    "hgnet_v2": {
        "stem_channels": [3, 8, 16],
        "stage_in_channels": [16, 32, 64, 64],
        "stage_mid_channels": [8, 16, 16, 16],
        "stage_out_channels": [32, 64, 64, 64],
        "stage_numb_of_layers": [2, 2, 2, 2],
        "stage_num_blocks": [1, 1, 2, 1],
        "hidden_sizes": [32, 64, 64, 64],
    },
    "textnet": {"stem_out_channels": 16, "hidden_sizes": [16, 16, 32, 32, 64]},
    "mobilevit": {
        "image_size": IMAGE_SIZE,
        "hidden_sizes": [32, 48, 64],
        "neck_hidden_sizes": [8, 16, 16, 32, 32, 48, 64],
    },
    "mobilevitv2": {
        "image_size": IMAGE_SIZE,
        "width_multiplier": 0.5,
        "output_stride": 16,
        "attn_dropout": 0.1,
        "ffn_dropout": 0.1,
    },
    "vit": _TRANSFORMER,
    "deit": {**_TRANSFORMER, "architectures": ["DeiTForImageClassification"]},
    "vit_msn": _TRANSFORMER,
    "ijepa": _TRANSFORMER,
    "beit": _BEIT,
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "focalnet": {
        "image_size": IMAGE_SIZE,
        "patch_size": 2,
        "embed_dim": 16,
        "hidden_sizes": [32, 32, 64],
        "depths": [1, 2, 1],
        "focal_levels": [2, 2, 2],
        "focal_windows": [3, 3, 3],
        "drop_path_rate": 0.2,
    },
    "hiera": {
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "patch_size": [3, 3],
        "patch_stride": [2, 2],
        "patch_padding": [1, 1],
        "embed_dim": 16,
        "depths": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "num_query_pool": 2,
        "masked_unit_size": [4, 4],
        "masked_unit_attention": [True, True, False],
        "drop_path_rate": 0.2,
    },
    "poolformer": {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 2, 1], "drop_path_rate": 0.2},
    "pvt": _PYRAMID,
    "pvt_v2": {**_PYRAMID, "image_size": [IMAGE_SIZE, IMAGE_SIZE], "hidden_sizes": [16, 32, 32, 64]},
    "segformer": _PYRAMID,
    "swiftformer": {
        "image_size": IMAGE_SIZE,
        "depths": [1, 1, 2, 1],
        "embed_dims": [16, 32, 32, 64],
        "drop_path_rate": 0.2,
        "drop_mlp_rate": 0.1,
    },
    "cvt": {
        "embed_dim": [16, 32, 64],
        "num_heads": [1, 2, 4],
        "depth": [1, 2, 3],
        "drop_rate": [0.1, 0.1, 0.1],
        "attention_drop_rate": [0.1, 0.1, 0.1],
        "drop_path_rate": [0.0, 0.1, 0.2],
    },
    "levit": {
        "image_size": IMAGE_SIZE,
        "hidden_sizes": [32, 48, 64],
        "num_attention_heads": [2, 3, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
        "down_ops": [["Subsample", 8, 4, 2, 2, 2], ["Subsample", 8, 6, 2, 2, 2]],
        "architectures": ["LevitForImageClassification"],
    },
}
"""By the library's name of a network (`model_type`): what differs from its default configuration."""


def __getattr__(name: str) -> Callable[..., nn.Module]:
    """The factory of a network."""
    model_type = name.removesuffix(FP64)
    if model_type not in CONFIGURATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    dtype = torch.float64 if name.endswith(FP64) else torch.float32
    return partial(ImageClassifier, model_type, dtype)


class ImageClassifier(nn.Module):
    """A network of transformers that maps images [N, 3, S, S] to logits [N, num_classes]."""

    def __init__(self, model_type: str, dtype: torch.dtype, num_classes: int = 10) -> None:
        """Builds the network with random weights; nothing is downloaded."""
        super().__init__()
        from transformers import AutoConfig, AutoModelForImageClassification  # no dependency of distsqz

        configuration = AutoConfig.for_model(model_type, num_labels=num_classes, **CONFIGURATIONS[model_type])
        self.network = AutoModelForImageClassification.from_config(configuration).to(dtype)
        self.dtype = dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The logits, in the network's data type."""
        logits: torch.Tensor = self.network(images.to(self.dtype)).logits
        return logits
