"""Which neurons hold a concept: scorers, selectors and the locators made of them."""
