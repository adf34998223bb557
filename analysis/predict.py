"""Runs `distsqz predict` from a checkout: `python analysis/predict.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("predict")
