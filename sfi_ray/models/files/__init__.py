"""Reads files of networks that others made, as data: nothing in them is run, and what they expand to is bounded."""
