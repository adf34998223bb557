"""The instruments: step clock, logical transfers, TCP counters, interface counters, scheduler wait."""
