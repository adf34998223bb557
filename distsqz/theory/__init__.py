"""What a strategy must cost, as pure formulas: bytes and time, given payload, ranks and link."""
