"""Low-level clients by version of the protocol."""
