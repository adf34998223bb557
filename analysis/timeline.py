"""Runs `distsqz timeline` from a checkout: `python analysis/timeline.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("timeline")
