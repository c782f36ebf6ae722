"""Measures how a classifier computes fastest on a device, and chooses that."""
