"""Runs `distsqz train` from a checkout: `python launch/train.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("train")
