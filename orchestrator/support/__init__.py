"""Small tools that know nothing of sweeps."""
