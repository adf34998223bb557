"""Runs `distsqz ddp` from a checkout: `python launch/ddp.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("ddp")
