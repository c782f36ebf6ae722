"""A search shared by all classes of a group: MAP-Elites with one niche for each class, gradients optional."""
