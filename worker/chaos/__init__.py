"""Faults drawn from a seed, thrown at a real fleet, and what must hold all the same. Needs the tests; in no wheel."""
