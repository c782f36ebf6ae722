"""Any optimiser of nevergrad's registry, over many cells at once."""
