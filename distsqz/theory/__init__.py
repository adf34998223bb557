"""Formulas for the cost of a strategy: bytes and time, from payload, ranks and link."""
