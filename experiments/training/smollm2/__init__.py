"""How `smollm2_scenes` learned to see: a vision tower and a projector for a language model that stays as it is."""
