"""Pictures drawn from a seed: people, vehicles and the scenes they are seen in."""
