"""distsqz measures what a smaller network saves in distributed training."""
