"""A machine profiled in a stated time: what is worth measuring, how long it takes, and doing it."""
