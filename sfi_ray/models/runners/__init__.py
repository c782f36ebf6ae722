"""Runs a network: data types, memory layouts, micro-batches, patches, compiled forms. Knows no classifier."""
