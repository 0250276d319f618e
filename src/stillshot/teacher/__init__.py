"""Models that see the context: how they are asked, and what is made of their answers."""
