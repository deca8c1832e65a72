"""What `kedit bench` measures: times in turns, live bytes, and the same edit made in several ways."""
