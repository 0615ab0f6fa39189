"""Reports, made from evaluation records and never typed."""
