"""Runs `distsqz architecture` from a checkout: `python analysis/architecture.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("architecture")
