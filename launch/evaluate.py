"""Runs `distsqz evaluate` from a checkout: `python launch/evaluate.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("evaluate")
