"""``orbiter top``: a fleet in a terminal, live. It asks the client alone, as the dashboard does."""
