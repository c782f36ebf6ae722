"""Rounds of defence and re-attack: their models, one trial, and trials side by side under Ray Tune."""
