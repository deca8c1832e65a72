"""Where in a picture each image token lies: grids, the tiles of a picture, and image tokens packed of them."""
