"""A search that follows gradients: proposals ranked by a first-order gain, then measured."""
