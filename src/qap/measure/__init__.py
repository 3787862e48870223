"""What costs, what grows, and what a hostile driver does: bench and soak."""
