"""Loss functions: what each needs of a batch, and those that a user writes."""
