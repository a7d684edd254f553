"""Model cards: pages of the paper's model zoo, and cards of one's own runs."""
