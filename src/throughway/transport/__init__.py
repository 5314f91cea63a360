"""The wires: one interface, carried by Unix sockets, by ZeroMQ with Curve, and in memory for tests."""
