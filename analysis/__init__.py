"""What runs and models amount to: tables, figures, cost model and report."""
