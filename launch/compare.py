"""Runs `distsqz compare` from a checkout: `python launch/compare.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("compare")
