"""What an application brings to the fleet: tools that agents may call, and callables that run as tasks."""
