"""What the project's own work costs, measured beside upstream's."""
