"""Search spaces as YAML pages, shipped with the package; no code lives here."""
