"""The same two tasks on several task queues, as each one's manual shows it; :mod:`benchmarks.peers` runs them."""
