"""Runs the command: `python -m distsqz` is `distsqz`."""

from distsqz.cli.main import main

if __name__ == "__main__":
    main()
