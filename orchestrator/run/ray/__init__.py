"""The engine that ships: Ray Tune."""
