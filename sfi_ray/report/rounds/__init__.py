"""Tables, curves and figures of rounds of defence and re-attack."""
