"""What `kedit.gone` asks: relearning, other forms of the weights, other ways of asking, and what states still carry."""
