"""What runs found: metrics, comparisons, checks between views, tables and figures."""
