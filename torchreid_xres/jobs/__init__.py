"""What a command does from start to end: runs, their stages, checks, locks and logs."""
