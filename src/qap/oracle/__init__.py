"""What the specifications say must happen. It imports nothing of qap."""
