"""How far the brackets of `distsqz predict` hold what is measured."""
