"""The best configuration and its tuned weights, as files that stand alone."""

from orchestrator.bundle.bundle import Bundle, load_bundle

__all__ = ["Bundle", "load_bundle"]
