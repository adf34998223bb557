"""The command `distsqz`: one module a subcommand, and what they share."""
