"""Runs `distsqz compression` from a checkout: `python analysis/compression.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("compression")
