"""The display of a loop's progress, and of the probabilities of tokens as colors."""
