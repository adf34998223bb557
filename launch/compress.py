"""Runs `distsqz compress` from a checkout: `python launch/compress.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("compress")
