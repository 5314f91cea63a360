"""A whole run of the real cores on a fake clock: seeded faults, checked after each step, the same each time."""
