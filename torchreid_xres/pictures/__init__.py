"""Pictures of what a network is given, sees and finds."""
