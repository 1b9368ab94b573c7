"""Who may do what: keys, tokens, signed URLs, and what each caller sees."""
