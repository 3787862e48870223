"""What costs, and what grows: bench and soak."""
