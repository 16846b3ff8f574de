"""Sessions: connections on the two wires, and the sockets under them."""
