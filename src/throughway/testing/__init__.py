"""What tests of Throughway, and of what is built on it, put in the place of a cluster: wires in memory."""
