"""The exchange types: each decides which destinations a message goes to."""
