"""Checks, comparisons and exports of a run that has rows; without Ray."""
