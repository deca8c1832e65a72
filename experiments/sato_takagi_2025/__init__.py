"""Sato and Takagi (2025): caption metrics on a concept and on all else, by locating method."""
