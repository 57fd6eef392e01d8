"""Wire models by version of the protocol."""
