"""cluster.yaml and cluster-aws.yaml are what Ray's own checks accept, and alike where they should be."""

from __future__ import annotations

from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
LOCAL, AWS = (yaml.safe_load((ROOT / name).read_text()) for name in ("cluster.yaml", "cluster-aws.yaml"))


def test_rays_own_checks_accept_both() -> None:
    for config in (LOCAL, AWS):
        validate_config(prepare_config(config))


def test_all_hosts_are_asked_for() -> None:
    (types,) = prepare_config(LOCAL)["available_node_types"].values()
    assert types["min_workers"] == len(LOCAL["provider"]["worker_ips"]) == 3


def test_both_ship_the_project_and_the_token_and_turn_authentication_on() -> None:
    assert LOCAL["file_mounts"] == AWS["file_mounts"]
    for config in (LOCAL, AWS):
        assert all((ROOT / here).exists() for here in config["file_mounts"].values() if here[0] != "~")
        assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
        assert all("0.0.0.0" not in command for command in config["head_start_ray_commands"])
