"""Synchronisation of replicas: all-reduce under DDP, and a parameter server."""
