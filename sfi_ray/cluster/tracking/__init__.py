"""Trackers that follow a run: TensorBoard, MLflow, and Weights & Biases."""
