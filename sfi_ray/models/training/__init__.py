"""Trains classifiers, with checkpoints from which a training goes on to the same bits."""
