"""How a run shows itself in a notebook: HTML that needs no widgets and no network."""
