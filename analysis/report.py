"""Runs `distsqz report` from a checkout: `python analysis/report.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("report")
