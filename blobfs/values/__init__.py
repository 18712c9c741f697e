"""Floor 0: pure values. No input or output, no clock, no trio."""
