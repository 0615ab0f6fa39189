"""What comes out of a network and is compared: features, their fusion, records and their tables."""
