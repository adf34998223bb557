"""Compressors of gradients: what all-reduce sends in place of whole gradients, a file each."""
