"""The dashboard: pages that show a fleet and, where that is allowed, act on it. It asks the client alone."""
