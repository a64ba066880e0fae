"""Where trials may run: machines, slots, shares, services."""
