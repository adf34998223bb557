"""Strategies by which the replicas of a model agree, a folder each."""
