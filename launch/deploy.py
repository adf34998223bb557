"""Runs `distsqz deploy` from a checkout: `python launch/deploy.py`."""

from distsqz.cli.main import run

if __name__ == "__main__":
    run("deploy")
