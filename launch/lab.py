"""Runs `distsqz lab` from a checkout: `python launch/lab.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("lab")
