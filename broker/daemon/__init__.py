"""The daemon: its life, command line and configuration; logs, health and metrics."""
