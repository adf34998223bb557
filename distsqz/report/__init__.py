"""Reports on runs: metrics, comparisons, checks between views, tables and figures."""
