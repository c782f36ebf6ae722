"""All that talks to Ray, but for rounds: sessions, actors, jobs, metrics, training and measuring on actors."""
