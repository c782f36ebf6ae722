"""Rounds of defence and re-attack: what each of them is made of, as plain data."""
