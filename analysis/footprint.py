"""Runs `distsqz footprint` from a checkout: `python analysis/footprint.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("footprint")
