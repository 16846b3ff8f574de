"""What writes `leveret.sync`. Apart from it, for it has to work when that does not import any more."""
