"""Runs `distsqz ps` from a checkout: `python launch/ps.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("ps")
