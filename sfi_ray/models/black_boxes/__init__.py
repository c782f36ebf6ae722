"""Classifiers that give scores only: functions of the user's own, ONNX networks, and served models."""

from __future__ import annotations
