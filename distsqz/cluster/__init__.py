"""Ray: clusters, placement, the trainers, the choice of network interface, failures."""
