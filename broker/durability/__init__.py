"""Durability: what changed is journaled, committed in groups, folded into checkpoints, and recovered."""
