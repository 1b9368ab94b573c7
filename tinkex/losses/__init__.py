"""Loss functions: the inputs that each needs, and custom losses that a user writes."""
