"""What networks run on: processors, processes, memory, precision, compilation."""
