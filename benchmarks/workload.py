"""The sizes of the tasks, read by both clients and the server."""

SAMPLES = 2000
WARM_UP = 200  # samples that open connections and fill caches before those that are measured
PROMPT_TOKENS = 512
SAMPLED_TOKENS = 64
DATUMS = 128
TRAINED_TOKENS = 4096
STEPS = 4
LARGE_DATUMS = 1024
LARGE_TOKENS = 8192
IN_FLIGHT = 200  # samples at once where their latency is measured
SAMPLE_SECONDS = 1.0  # that a sample takes the server then
