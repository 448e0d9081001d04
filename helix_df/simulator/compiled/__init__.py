"""The simulator's event loop compiled to machine code, for searches that simulate thousands of placements."""
