"""What hooks and locating cost: times in turns, live bytes, and the same edit made in several ways."""
