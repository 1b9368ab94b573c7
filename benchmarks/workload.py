"""The sizes of the tasks, read by both clients and the server."""

SAMPLES = 2000
PROMPT_TOKENS = 512
SAMPLED_TOKENS = 64
DATUMS = 128
TRAINED_TOKENS = 4096
STEPS = 4
