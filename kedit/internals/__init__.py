"""Where the feed-forward neurons are in a module, and the hooks that read and change them."""
