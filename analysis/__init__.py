"""What runs and models amount to: tables, figures, layer tables and the report."""
