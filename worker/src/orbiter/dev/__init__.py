"""What ``orbiter dev`` is made of: a Redis of its own, a worker that is kept running, and an eye on the code."""
