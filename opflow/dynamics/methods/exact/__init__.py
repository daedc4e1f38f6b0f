"""The parts of the exact flow: series between events, their search, and gates at zero."""
