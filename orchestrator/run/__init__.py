"""From a plan to a finished sweep."""
